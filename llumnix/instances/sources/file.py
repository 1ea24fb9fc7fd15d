"""A file that lists servers, followed while it changes."""

import asyncio
from pathlib import Path

from llumnix.instances.sources.listing import read_listing
from llumnix.instances.sources.source import Asked, Listing, SourceFailed

_SETTLES_S = 0.05
_LIMIT_BYTES = 4 << 20


def file_source(path: str, interval_s: float) -> Asked:
    """Follow a file by its content, so that links which are swapped count, as in a ConfigMap."""
    reader = _Reader(Path(path))
    return Asked(f"file:{path}", reader.ask, interval_s)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: bytes | None = None
        self._listed: Listing = ()

    async def ask(self) -> Listing:
        content = await asyncio.to_thread(self._read)
        if content == self._content:
            return self._listed
        # Half a URL is one as well: a file that is being written is not read until it rests.
        await asyncio.sleep(_SETTLES_S)
        if content != await asyncio.to_thread(self._read):
            raise SourceFailed("it keeps changing")
        try:
            self._listed = read_listing(content.decode())
        except UnicodeDecodeError as error:
            raise SourceFailed("it is not text") from error
        self._content = content
        return self._listed

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                content = file.read(_LIMIT_BYTES + 1)
        except OSError as error:
            raise SourceFailed(f"it cannot be read: {error.strerror}") from error
        if len(content) > _LIMIT_BYTES:
            raise SourceFailed(f"it is larger than {_LIMIT_BYTES} bytes")
        return content
