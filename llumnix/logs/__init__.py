"""Log lines: one event a line, in fields, for people and machines alike."""
