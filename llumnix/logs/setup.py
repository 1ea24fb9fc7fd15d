"""Set up logging for this process."""

import logging
import sys

from llumnix.logs.config import LogConfig
from llumnix.logs.formatter import LineFormatter
from llumnix.logs.limit import RepeatLimit
from llumnix.logs.scanners import quieten_servers


def configure(config: LogConfig) -> None:
    """Log to stderr as configured, replacing what was set up before; may be called again."""
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(config.format))
    handler.addFilter(RepeatLimit())
    handler.setLevel(config.level.upper())  # some records are lowered on their way here
    for old in [each for each in root.handlers if isinstance(each, logging.StreamHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    quieten_servers()
