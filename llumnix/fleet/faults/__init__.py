"""Faults: whose they are, and where they are said."""
