"""Transports between llumlets: see `link.py` for what one must do."""
