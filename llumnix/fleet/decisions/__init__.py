"""Why each request went where it went: decisions, and how long they are remembered."""
