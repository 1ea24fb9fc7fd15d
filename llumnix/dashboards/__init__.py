"""The fleet dashboard and alert rules, described here and generated into `dashboards/`."""

from llumnix.dashboards.command import add_arguments, generate, home, run, stale

__all__ = ["add_arguments", "generate", "home", "run", "stale"]
