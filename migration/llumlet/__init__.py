"""The llumlet: one instance's agent, and the thin driver that gives it sockets and timers."""
