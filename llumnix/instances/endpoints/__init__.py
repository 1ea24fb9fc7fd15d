"""How to reach a server: its address, our key for it, its TLS settings."""
