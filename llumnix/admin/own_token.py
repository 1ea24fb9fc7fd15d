"""The admin API's token: the one that was given, or one made here and left for local commands."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from llumnix.admin import credentials

log = logging.getLogger(__name__)


class OwnToken:
    """A service's token. `needs_none` says whether none is needed, by the one that was given."""

    def __init__(self, token_file: str, needs_none: Callable[[str], bool]) -> None:
        token = credentials.given_token(token_file)
        self._publishes = not token and not needs_none(token)
        self.token = credentials.new_token() if self._publishes else token
        self._published: Path | None = None

    def publish(self, admin_url: str, url: str) -> None:
        """Leave the token, if it was made here, where this user's commands find it."""
        if not self._publishes:
            return
        try:
            self._published = credentials.publish(
                credentials.Published(admin_url, url, self.token, os.getpid())
            )
        except OSError as error:
            log.warning(
                "admin_token_not_published reason=%s effect=%s hint=%s",
                str(error),
                "nobody can use the admin API",
                f"give a token with --admin-token-file or {credentials.TOKEN_VARIABLE}",
            )

    def withdraw(self) -> None:
        """Take it back."""
        if self._published is not None:
            credentials.withdraw(self._published, os.getpid())
            self._published = None
