"""The fleet driver: what the global scheduler sees, and how its decisions are carried out."""
