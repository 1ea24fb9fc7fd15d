"""One module a trace format; each registers itself with `readers.trace_format`."""
