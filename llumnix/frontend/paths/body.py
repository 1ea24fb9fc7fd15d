"""A request's body on its way through: kept while it is small enough, so that it can be sent again.

What all bodies hold together is bounded; beyond that, and beyond a body's own limit, bytes are
passed on as they arrive, and the request can be sent only once.
"""

import secrets
from collections.abc import AsyncIterator
from typing import Self

from aiohttp import web

from llumnix.frontend.bodies.broken import BrokenBody, read_part
from llumnix.frontend.bodies.budget import Holding
from llumnix.frontend.paths.peek import FormReader, Peek, is_form, is_telling, read_model

BODILESS = ("GET", "HEAD", "OPTIONS", "DELETE")


class Body:
    """One request's body. Use it as a context manager: leaving gives its bytes back.

    `broken` says what was wrong with the client's end of it, if anything was.
    """

    def __init__(self, http: web.Request, holding: Holding, limit_bytes: int) -> None:
        self.exists = http.can_read_body or http.method not in BODILESS
        self.broken: BrokenBody | None = None
        self._http = http
        self._content = http.content
        self._type = http.headers.get("Content-Type", "")
        self._holding = holding
        self._limit_bytes = limit_bytes
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._whole = not self.exists
        self._passed = False
        self._keeps = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    @property
    def repeatable(self) -> bool:
        """Whether the body can be sent once more: nothing of it is lost."""
        return self._keeps or not self._passed

    def fingerprint(self) -> bytes:
        """Return what tells this body from others: itself if it is kept, else something unique."""
        return self._joined() if self._whole and self._keeps else secrets.token_bytes(16)

    async def read_until_settled(self) -> Peek:
        """Read until it is known where the request goes, or no more can be kept.

        Raises BrokenBody.
        """
        form = is_form(self._type)
        if not self.exists or not (form or is_telling(self._type)):
            return Peek(settled=True)
        reader, looked_at_bytes = FormReader(self._type), 0
        while not self._whole and self._keeps:
            await self._read()
            # Looked at anew each time it has doubled, so that the copies are few.
            if form and (self._whole or self._kept_bytes >= 2 * looked_at_bytes):
                looked_at_bytes = self._kept_bytes
                model = reader.model(self._joined())
                if model is not None:
                    return Peek(model, settled=True)
        if form:
            return Peek(reader.model(self._joined()), settled=True)
        return Peek(await read_model(self._type, self._joined()), settled=True)

    async def read_all(self) -> bytes | None:
        """Return the whole body; None if it is larger than can be kept. Raises BrokenBody."""
        while not self._whole and self._keeps:
            await self._read()
        return self._joined() if self._whole else None

    async def send(self) -> AsyncIterator[bytes]:
        """Yield the body from its beginning; what has not arrived yet follows as it does."""
        assert self.repeatable, "a body that is not kept is sent once"
        for part in list(self._kept):
            yield part
        while True:
            if not self._keeps:
                self._passed = True
                self._release()
            if self._whole:
                return
            part = await self._read()
            if part:
                yield part

    async def _read(self) -> bytes:
        try:
            part = await read_part(self._http)
        except BrokenBody as error:
            self.broken = error
            raise
        self._whole = self._content.at_eof()
        if part and not self._passed:
            self._kept.append(part)
            self._kept_bytes += len(part)
            fits = self._kept_bytes <= self._limit_bytes
            self._keeps = self._keeps and fits and self._holding.grow_to(self._kept_bytes)
        return part

    def _joined(self) -> bytes:
        if len(self._kept) > 1:
            self._kept = [b"".join(self._kept)]
        return self._kept[0] if self._kept else b""

    def _release(self) -> None:
        self._kept.clear()
        self._holding.give_back()
