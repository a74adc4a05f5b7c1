"""Decisions, without I/O: hazards, graph, scheduler, placement, life cycle.  Standard library only."""
