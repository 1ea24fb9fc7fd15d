"""Clients' request bodies: read within bounds, unpacked and parsed off the event loop."""
