"""The migration protocol, sans I/O: state machines, messages, and their codec."""
