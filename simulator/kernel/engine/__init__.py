"""One instance in columns: its waiting line, batch, blocks and steps."""
