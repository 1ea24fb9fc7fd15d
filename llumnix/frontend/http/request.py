"""A client's request as the next handler shall see it: other headers, another body."""

import asyncio

from aiohttp import StreamReader, web
from multidict import CIMultiDict, CIMultiDictProxy


def altered(http: web.Request, headers: CIMultiDict[str], body: bytes | None = None) -> web.Request:
    """Return a copy of a request with these headers and, unless None, this body instead of its own.

    aiohttp's own `clone` fails for header values that are not UTF-8, and cannot replace a body.
    """
    copy = http.clone()
    proxy = CIMultiDictProxy(headers)
    kept = {name.lower().encode("utf-8", "surrogateescape") for name in headers}
    raw = tuple(each for each in http.raw_headers if each[0].lower() in kept)
    copy._message = http._message._replace(headers=proxy, raw_headers=raw)  # noqa: SLF001
    copy._headers = proxy  # noqa: SLF001
    if body is not None:
        reader = StreamReader(http.protocol, max(1, len(body)), loop=asyncio.get_running_loop())
        reader.feed_data(body)
        reader.feed_eof()
        copy._payload = reader  # noqa: SLF001
    return copy
