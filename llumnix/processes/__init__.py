"""Child processes and event loops: start them, stop them, exit with the parent."""
