"""The gateway: processes that are no ranks use a rank's services over a local socket.

`listener` waits in each rank, `server` takes over with the first connection, and `served` does what
is asked.  `link` connects a process to a rank, and `remote` has the objects that stand for the
rank's there.  `address` is the environment variable by which the one finds the other, `wire` the
messages between them.  The protocol, its invariants and its ends are in
``ARCHITECTURE-gateway.md``.
"""
