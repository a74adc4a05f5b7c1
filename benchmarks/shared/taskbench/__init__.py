"""The parts of ``benchmarks/tasks.py``: workloads, systems under test, and the table."""
