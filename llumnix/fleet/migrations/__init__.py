"""Migrations as the fleet carries them out: ordered, followed, and recorded."""
