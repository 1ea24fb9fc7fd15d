"""A server for the attacks: streams a token every ten milliseconds, or megabytes on order."""

import asyncio
import json
from typing import Any

import uvloop
from aiohttp import web

TOKEN_S = 0.01
_FLOOD_EVENTS = 10_000
_FLOOD_S = 0.1
_PARSED_BYTES = 10_000
PAGE = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 0.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",num_gpu_blocks="400000"} 1.0
"""


def event(text: str) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
    body = {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def complete(http: web.Request) -> web.StreamResponse:
    raw = await http.read()
    try:
        # A large one would hold up the streams here, which are to be held up by nothing.
        body: Any = json.loads(raw) if len(raw) < _PARSED_BYTES else {}
    except (ValueError, RecursionError):
        body = {}
    prompt = body.get("prompt") if isinstance(body, dict) else None
    if prompt not in ("watch", "flood"):
        return web.json_response({"id": "c", "choices": [], "usage": {"completion_tokens": 1}})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(http)
    if prompt == "flood":
        # Large events, not many: what fills buffers shall not be a test of throughput.
        some = event("x" * 8000)
        for _ in range(_FLOOD_EVENTS):
            await response.write(some)
            await asyncio.sleep(_FLOOD_S)
    while prompt == "watch":
        await response.write(event("t"))
        await asyncio.sleep(TOKEN_S)
    return response


async def models(_http: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})


async def page(_http: web.Request) -> web.Response:
    return web.Response(text=PAGE)


async def other(http: web.Request) -> web.Response:
    await http.read()
    return web.json_response({"detail": "Not Found"}, status=404)


async def main() -> None:
    app = web.Application(client_max_size=1 << 30)
    app.add_routes(
        [
            web.get("/v1/models", models),
            web.get("/metrics", page),
            web.post("/v1/completions", complete),
            web.post("/v1/chat/completions", complete),
            web.route("*", "/{rest:.*}", other),
        ]
    )
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    print(json.dumps({"url": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
