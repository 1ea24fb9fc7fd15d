"""One instance in columns: its line, its batch, its blocks, its steps."""
