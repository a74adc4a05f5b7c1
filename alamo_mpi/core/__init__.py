"""Decisions without I/O: hazards, graph, scheduler, life cycle.  Standard library only."""
