"""Long answers of our own, written in slices: no client's stream waits for them.

A list of 100,000 requests takes as long to write as a hundred streams wait for a token.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from aiohttp import web

_HOLD_S = 0.004
_PIECE_CHARACTERS = 1 << 16
_JSON = "application/json; charset=utf-8"


async def in_slices(pieces: Iterable[str]) -> list[str]:
    """Take all pieces, and let others run whenever that has taken some milliseconds."""
    taken: list[str] = []
    began_s = time.monotonic()
    for piece in pieces:
        taken.append(piece)
        if time.monotonic() - began_s >= _HOLD_S:
            await asyncio.sleep(0)
            began_s = time.monotonic()
    return taken


async def send_in_slices(http: web.Request, pieces: Iterable[str]) -> web.StreamResponse:
    """Answer with these pieces of JSON: a short answer whole, a long one as it is written."""
    response: web.StreamResponse | None = None
    ready: list[str] = []
    size = 0
    began_s = time.monotonic()
    for piece in pieces:
        ready.append(piece)
        size += len(piece)
        late = time.monotonic() - began_s >= _HOLD_S
        if size >= _PIECE_CHARACTERS:
            if response is None:
                response = web.StreamResponse(headers={"Content-Type": _JSON})
                await response.prepare(http)
            await response.write("".join(ready).encode())
            ready, size = [], 0
        if late:
            await asyncio.sleep(0)
            began_s = time.monotonic()
    if response is None:
        return web.Response(text="".join(ready), headers={"Content-Type": _JSON})
    await response.write("".join(ready).encode())
    await response.write_eof()
    return response


def json_list(rows: Iterable[object]) -> Iterator[str]:
    """Write a JSON list row by row, as `json.dumps` writes it whole."""
    dump: Callable[[object], str] = json.dumps
    between = "["
    for row in rows:
        yield between + dump(row)
        between = ", "
    yield "]" if between == ", " else "[]"


def json_object(plain: Mapping[str, object], key: str, rows: Iterable[object]) -> Iterator[str]:
    """Write a JSON object with a long list, which comes in place of the one under `key`."""
    dump: Callable[[object], str] = json.dumps
    between = "{"
    for name, value in plain.items():
        yield f"{between}{dump(name)}: "
        if name == key:
            yield from json_list(rows)
        else:
            yield dump(value)
        between = ", "
    yield "}"
