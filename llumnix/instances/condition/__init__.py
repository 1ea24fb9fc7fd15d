"""What speaks against an instance, judged without I/O: it fails, is silent, stands still."""
