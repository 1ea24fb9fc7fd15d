"""Sending a request to an instance, up to the first bytes of its answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import aiohttp
from multidict import CIMultiDictProxy

from llumnix.frontend.config import FrontendConfig
from llumnix.instances.instance import Instance

_DETAIL_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an instance gave no usable answer.

    `refused`: it takes no connection. `broken`: the connection broke. `stalled`: it kept silent
    beyond the deadline. `answered`: it said no itself, with this HTTP status.
    """

    kind: Literal["refused", "broken", "stalled", "answered"]
    detail: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, not streamed."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Leg:
    """A stream on one instance, begun: `first` are its first bytes, the rest is in `content`."""

    instance: Instance
    response: aiohttp.ClientResponse
    first: bytes

    def close(self) -> None:
        """Cut the connection at once, unless the stream has ended: that cancels the request."""
        self.response.close()


class Upstream:
    """The connections to all instances."""

    def __init__(self, config: FrontendConfig) -> None:
        self._first_byte_timeout_s = config.first_byte_timeout_s
        self._answer_timeout_s = config.answer_timeout_s
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=config.connect_timeout_s, sock_read=None
        )
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, ttl_dns_cache=60),
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()

    async def send(
        self,
        instance: Instance,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        streams: bool,
    ) -> Leg | Answer | Failure:
        """Post a request; return a stream with its first bytes, a whole answer, or a Failure.

        Server errors (5xx) are failures: somebody else may do better.
        """
        deadline_s = self._first_byte_timeout_s if streams else self._answer_timeout_s
        response: aiohttp.ClientResponse | None = None
        kept = False
        try:
            async with asyncio.timeout(deadline_s):
                response = await self.session.post(
                    instance.url + path, data=body, headers=headers, allow_redirects=False
                )
                result = await _receive(instance, response)
            kept = isinstance(result, Leg)
            return result
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Failure("refused", f"{instance.id} takes no connection: {error}")
        except TimeoutError:
            return Failure("stalled", f"{instance.id} sent nothing for {deadline_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Failure("broken", f"{instance.id} broke off: {error!r}")
        finally:
            if response is not None and not kept:
                response.close()


async def _receive(instance: Instance, response: aiohttp.ClientResponse) -> Leg | Answer | Failure:
    if response.status >= 500:
        text = (await response.read()).decode(errors="replace")
        detail = f"{instance.id} answered {response.status}: {text[:_DETAIL_CHARACTERS]}"
        return Failure("answered", detail, response.status)
    if response.content_type == "text/event-stream" and response.status == 200:
        first = await response.content.readany()
        if not first:
            return Failure("broken", f"{instance.id} ended its stream before it began")
        return Leg(instance, response, first)
    return Answer(response.status, response.headers, await response.read())
