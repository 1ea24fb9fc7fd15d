"""The least an aiohttp proxy can do: parse the request, send it on, pass the answer's bytes back.

`python bare_proxy.py PORT URL [URL ...]`: no scheduling, no metrics, no keys, no retries. What a
frontend in Python costs before it does anything of its own.
"""

import asyncio
import json
import sys
from itertools import cycle

import aiohttp
import uvloop
from aiohttp import web


async def _serve(port: int, urls: list[str]) -> None:
    following = cycle(urls)
    connector = aiohttp.TCPConnector(limit=0)
    session = aiohttp.ClientSession(connector=connector, auto_decompress=False)

    async def proxy(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        json.loads(body)
        headers = {"Content-Type": "application/json"}
        url = next(following) + request.path
        async with session.post(url, data=body, headers=headers) as answer:
            content_type = {"Content-Type": answer.headers["Content-Type"]}
            if answer.content_length is not None:
                whole = await answer.read()
                return web.Response(status=answer.status, headers=content_type, body=whole)
            response = web.StreamResponse(status=answer.status, headers=content_type)
            await response.prepare(request)
            async for part in answer.content.iter_any():
                await response.write(part)
            await response.write_eof()
            return response

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/{path:.*}", proxy)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2:]))
