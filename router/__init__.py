"""The front door: proves callers, finds their sandbox, forwards bytes."""
