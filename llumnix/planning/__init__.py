"""Simulations for planners: `llumnix simulate`, `compare`, `sweep` and `tune`."""
