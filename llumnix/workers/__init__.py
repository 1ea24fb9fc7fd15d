"""Serving with several processes: a supervisor, the scheduler's process, and frontend workers."""
