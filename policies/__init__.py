"""Decisions: pure functions over frozen snapshots. No clock, no I/O, no randomness, no logging."""
