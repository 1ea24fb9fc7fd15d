"""Set up logging for this process."""

import logging
import sys
from typing import TextIO

from llumnix.logs.config import LogConfig
from llumnix.logs.formatter import LineFormatter
from llumnix.logs.limit import RepeatLimit
from llumnix.logs.scanners import quieten_servers


class _Stderr(logging.StreamHandler[TextIO]):
    """The handler that is ours to replace."""


def configure(config: LogConfig) -> None:
    """Log to stderr as configured; called again, it replaces what it set up before."""
    root = logging.getLogger()
    handler = _Stderr(sys.stderr)
    handler.setFormatter(LineFormatter(config.format))
    handler.addFilter(RepeatLimit())
    handler.setLevel(config.level.upper())  # some records are lowered on their way here
    for old in [each for each in root.handlers if isinstance(each, _Stderr)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    quieten_servers()
