"""The only room that imports mpi4py: communicators, point-to-point messages, start and end."""
