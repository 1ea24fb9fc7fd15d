"""What strangers make servers log: one short line, below the default level, never a traceback.

A scanner that speaks TLS to a plain port, or sends what is no HTTP, tells an operator nothing
about the fleet; neither does a client that leaves in the middle of its answer.
"""

import logging
import ssl

from aiohttp.http_exceptions import HttpProcessingError

_STRANGERS = (HttpProcessingError, ConnectionError, ssl.SSLError)


class StrangerFilter(logging.Filter):
    """Turns a server's record about a peer's fault into one line at debug level."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lower the record's level, so that handlers of higher ones pass it over."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, _STRANGERS):
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            record.exc_info = None
            record.msg, record.args = "bad_peer error=%s", (type(error).__name__,)
        return True


_FILTER = StrangerFilter()


def quieten_servers() -> None:
    """Install the filter on the loggers that speak of peers."""
    for name in ("aiohttp.server", "aiohttp.web", "asyncio"):
        logging.getLogger(name).addFilter(_FILTER)
