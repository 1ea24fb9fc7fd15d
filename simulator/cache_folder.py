"""Where this user's caches are kept: in a home directory, if there is one that can be written.

Containers run with any user id, without a name or a home, and on read-only file systems; a cache
is never a reason to fail there.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


def cache_folder() -> Path | None:
    """Return a folder for caches that can be written; None if there is none.

    What is cached is code, so a folder in a shared temporary directory is taken only if no other
    user could have put anything into it.
    """
    for home in _homes():
        folder = home / "llumnix"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    try:
        shared = Path(tempfile.gettempdir()) / f"llumnix-{os.geteuid()}"
        shared.mkdir(mode=0o700, exist_ok=True)
        seen = shared.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid()
    return shared if private and not seen.st_mode & 0o022 else None


def _homes() -> Iterator[Path]:
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        yield Path(given)
        return
    try:
        yield Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry for this user
        return
