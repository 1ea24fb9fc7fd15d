"""The result of a run, and how it is shown."""
