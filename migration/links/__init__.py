"""Transports between llumlets; `link.py` defines the interface."""
