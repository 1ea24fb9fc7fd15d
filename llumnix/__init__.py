"""The product: CLI, configuration, HTTP frontend, fleet driver and the emulated engine."""

__version__ = "0.1.0"
