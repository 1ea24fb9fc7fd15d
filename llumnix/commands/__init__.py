"""The `llumnix` command line: one verb a file."""
