"""Clients that have lost their connection, and ask for the rest of their answer."""
