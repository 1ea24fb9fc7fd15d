"""The result of a run, and its output as a table or JSON."""
