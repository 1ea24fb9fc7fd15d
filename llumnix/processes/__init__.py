"""Child processes and event loops: starting them, stopping them, ending with the parent."""
