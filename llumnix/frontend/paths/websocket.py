"""WebSockets, passed through: messages both ways, and how either end closes."""

import asyncio

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web
from multidict import CIMultiDict
from yarl import URL

from llumnix.frontend.context import ServingContext
from llumnix.frontend.paths.choices import InTurn
from llumnix.frontend.request.headers import sendable, to_instance_as_is
from llumnix.frontend.request.refusal import NO_INSTANCE, Refusal
from llumnix.instances.instance import Instance
from policies.types import InstanceId

_HEARTBEAT_S = 30.0
_CLOSE_S = 5.0
_PROTOCOL = "Sec-WebSocket-Protocol"
_NO_CODE, _ABNORMAL, _TLS = 1005, 1006, 1015
"""Close codes that are never sent: they say what was seen."""

Socket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


def wants_websocket(http: web.Request) -> bool:
    """Return whether a request asks to become a WebSocket (other upgrades are not offered)."""
    asked = [name.strip().lower() for name in http.headers.get("Connection", "").split(",")]
    kind = http.headers.get("Upgrade", "").strip().lower()
    return http.method == "GET" and "upgrade" in asked and kind == "websocket"


async def pass_websocket(
    context: ServingContext, http: web.Request, target: str, choose: InTurn
) -> web.StreamResponse | Refusal:
    """Connect a client with an instance until either closes; `target` is the path and its query."""
    tried: set[InstanceId] = set()
    refusal: Refusal | None = None
    while True:
        instance = await choose(frozenset(tried))
        if not isinstance(instance, Instance):
            return refusal or instance or NO_INSTANCE
        try:
            async with await _connect(context, http, instance, target) as upstream:
                return await _relay(context, http, upstream)
        except aiohttp.WSServerHandshakeError as error:
            text = f"{instance.id} declined the WebSocket with status {error.status}"
            return Refusal(error.status if error.status >= 400 else 502, text)
        except aiohttp.ClientConnectorError as error:
            context.fleet.suspect(instance, str(error))
            refusal = Refusal(502, f"{instance.id} takes no connection: {error}", "bad_gateway")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if isinstance(error, ConnectionResetError) and http.transport is None:
                raise  # the client has left
            refusal = Refusal(502, f"{instance.id} does not respond: {error!r}", "bad_gateway")
        tried.add(instance.id)


async def _connect(
    context: ServingContext, http: web.Request, instance: Instance, target: str
) -> aiohttp.ClientWebSocketResponse:
    headers = CIMultiDict(
        (name, value)
        for name, value in sendable(to_instance_as_is(http.headers)).items()
        if not name.lower().startswith("sec-websocket-")
    )
    async with asyncio.timeout(context.config.connect_timeout_s):
        return await context.upstream.session.ws_connect(
            URL(instance.url + target, encoded=True),
            **instance.endpoint.reach(headers),
            protocols=_protocols(http),
            max_msg_size=context.config.event_limit_bytes,
            heartbeat=_HEARTBEAT_S,
            autoclose=False,
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
        )


async def _relay(
    context: ServingContext, http: web.Request, upstream: aiohttp.ClientWebSocketResponse
) -> web.StreamResponse:
    client = web.WebSocketResponse(
        protocols=(upstream.protocol,) if upstream.protocol else (),
        max_msg_size=context.config.event_limit_bytes,
        heartbeat=_HEARTBEAT_S,
        autoclose=False,
        timeout=_CLOSE_S,
    )
    await client.prepare(http)
    ways = [
        asyncio.create_task(_pump(client, upstream, WSCloseCode.GOING_AWAY)),
        asyncio.create_task(_pump(upstream, client, WSCloseCode.INTERNAL_ERROR)),
    ]
    try:
        _, pending = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=2 * _CLOSE_S)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    return client


async def _pump(source: Socket, sink: Socket, lost: WSCloseCode) -> None:
    """Pass messages on until the source closes, then close the sink as it did.

    `lost` is how to close it if the source is gone without a word.
    """
    while True:
        message = await source.receive()
        try:
            if message.type is WSMsgType.TEXT:
                await sink.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            elif message.type is WSMsgType.CLOSING:
                return  # by the other pump, which knows why
            else:
                break
        except ConnectionError:
            return  # the sink has closed; its own pump says how
    code = message.data if message.type is WSMsgType.CLOSE else source.close_code
    reason = message.extra if message.type is WSMsgType.CLOSE else ""
    if code is None or code in (_ABNORMAL, _TLS):
        code = lost
    elif code == _NO_CODE:
        code = WSCloseCode.OK
    await sink.close(code=code, message=(reason or "").encode())
    await source.close(code=code)


def _protocols(http: web.Request) -> list[str]:
    given = http.headers.getall(_PROTOCOL, ())
    return [name for value in given for name in (each.strip() for each in value.split(",")) if name]
