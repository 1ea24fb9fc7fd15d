"""Auxiliary calls to servers without the plugin: warm a cache, decode token ids."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

from llumnix.frontend.request.headers import identity
from llumnix.instances.instance import Instance

REPLACEMENT = "\ufffd"
_CONTEXT_TOKENS = 8
_KIND = {"Content-Type": "application/json"}


class ServerCalls:
    """Makes these calls on behalf of one request, with its client's key.

    Deadlines are wall seconds.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        model: str | None,
        headers: Callable[[], Mapping[str, str]],
    ) -> None:
        self._session = session
        self._model = model
        self._headers = headers

    async def warm(self, target: Instance, token_ids: Sequence[int], timeout_s: float) -> bool:
        """Make a server compute these tokens, so that its prefix cache holds them."""
        asked = {"prompt": list(token_ids), "max_tokens": 1, "temperature": 0, "stream": False}
        answer = await self._ask(target, "/v1/completions", asked, timeout_s)
        return answer is not None

    async def output_text(
        self,
        target: Instance,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        timeout_s: float,
    ) -> str | None:
        """Ask a server for the text of these output tokens; None if it does not say.

        Part of the prompt is decoded with them: a token's text may depend on what precedes it.
        """
        context = list(prompt_ids[-_CONTEXT_TOKENS:])
        before = await self._decode(target, context, timeout_s)
        whole = await self._decode(target, [*context, *output_ids], timeout_s)
        if before is None or whole is None or not whole.startswith(before):
            return None
        return whole[len(before) :]

    async def _decode(
        self, target: Instance, token_ids: Sequence[int], timeout_s: float
    ) -> str | None:
        if not token_ids:
            return ""
        asked = {"tokens": list(token_ids)}
        answer = await self._ask(target, "/detokenize", asked, timeout_s)
        text = (answer or {}).get("prompt")
        return text if isinstance(text, str) else None

    async def _ask(
        self, target: Instance, path: str, asked: dict[str, Any], timeout_s: float
    ) -> dict[str, Any] | None:
        body = json.dumps({"model": self._model, **asked} if self._model else asked)
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.post(
                    target.url + path,
                    data=body,
                    **target.endpoint.reach({**_KIND, **identity(self._headers())}),
                    allow_redirects=False,  # prompts and keys go to members only
                ) as told,
            ):
                answer = await told.json(content_type=None) if told.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None
        return answer if isinstance(answer, dict) else None
