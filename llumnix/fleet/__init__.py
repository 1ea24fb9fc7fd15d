"""The fleet driver: what the global scheduler is shown, and how its decisions are carried out."""
