"""One module per trace format; each registers itself with `readers.trace_format`."""
