"""Set up logging for this process."""

import logging
import sys
from typing import TextIO

from llumnix.logs.config import LogConfig
from llumnix.logs.formatter import LineFormatter
from llumnix.logs.limit import RepeatLimit
from llumnix.logs.scanners import quieten_servers
from llumnix.logs.writer import BackgroundHandler


class _Stderr(logging.StreamHandler[TextIO]):
    """The handler that is ours to replace."""


def configure(config: LogConfig, *, background: bool = False) -> None:
    """Log to stderr as configured; called again, it changes what it set up before.

    With `background`, a thread writes: for servers, which must not wait for a reader of their log.
    """
    root = logging.getLogger()
    kind = BackgroundHandler if background else _Stderr
    ours = [each for each in root.handlers if isinstance(each, _Stderr | BackgroundHandler)]
    handler = next((each for each in ours if background and isinstance(each, kind)), None)
    for old in ours:
        if old is not handler:
            root.removeHandler(old)
            old.close()
    if handler is None:
        handler = kind(sys.stderr)
        handler.addFilter(RepeatLimit())
        root.addHandler(handler)
    handler.setFormatter(LineFormatter(config.format))
    handler.setLevel(config.level.upper())  # some records are lowered on their way here
    root.setLevel(config.level.upper())
    quieten_servers()
