"""The short way of plain completion requests: served from within the read, without a task."""
