"""Joins core and mpi: the manager, the workers, execution and serialisation.  Decides nothing."""
