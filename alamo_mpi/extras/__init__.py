"""Optional parts, one optional dependency a file; they see only `errors` and `core`."""
