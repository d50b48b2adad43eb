"""What happens and in which order: deterministic, no I/O, no clock, no SQL, no HTTP."""
