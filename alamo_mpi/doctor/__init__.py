"""``alamo-mpi doctor``: what works here, how fast, and what to do about the rest.

`facts` is what was measured, `judge` says what it means (pure), `report` how it is told (pure);
`examine` does the measuring, and watches over it.  What needs MPI is in `alamo_mpi.mpi.probe`.
"""
