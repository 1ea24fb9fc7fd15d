"""Resume a stream: which instances can, and how their output joins what the client has."""

from collections.abc import Sequence

from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.http.outcome import Failure, FailureKind
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.server_calls import REPLACEMENT, ServerCalls
from llumnix.frontend.request.request import ClientRequest
from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.graft import Grafter
from llumnix.frontend.splicing.leg_filter import LegFilter, hider
from llumnix.frontend.splicing.logprobs import KeptTokens
from llumnix.frontend.splicing.restart import Restart
from llumnix.frontend.splicing.splice import Diverged, Splicer
from llumnix.frontend.splicing.transcript import Transcript, only_choice, strings
from llumnix.instances.instance import Instance

_CHANNELS = {"text", "content"}


class Continuation:
    """How one request's stream resumes: by replay at plugged instances, by graft at other vLLMs."""

    def __init__(
        self, config: FrontendConfig, request: ClientRequest, server_calls: ServerCalls
    ) -> None:
        self._config = config
        self._request = request
        self._server_calls = server_calls

    def by_replay(self, source: Instance, had: Transcript) -> bool:
        """Return whether an instance with the plugin can resume the stream."""
        told = source.plugged or (bool(had.token_ids) and not had.bare)
        return self._request.resumable and told

    def by_graft(self, had: Transcript, ids: Sequence[int]) -> bool:
        """Return whether a vLLM without the plugin can resume it after these tokens."""
        recipe = self._request.recipe
        return (
            recipe is not None
            and bool(had.prompt_ids and ids)
            and not had.bare
            and not recipe.exhausted(len(ids))
            and {name for name, text in had.texts.items() if text} <= _CHANNELS
        )

    async def strand(
        self, leg: Leg, had: Transcript, kept: KeptTokens, ids: Sequence[int]
    ) -> LegFilter | Failure:
        """Return the filter of a leg that resumes what the client has, with these tokens known.

        Raises Diverged if the client's text is not the text of these tokens.
        """
        joiner: Splicer | Grafter | None = None
        if not had.said and not ids:
            joiner = Restart(had) if had.opened else None
        elif leg.instance.plugged:
            joiner = Splicer(had, kept) if had.events else None
        else:
            made = await self._grafter(leg, had, ids)
            if isinstance(made, Failure):
                return made
            joiner = made
        return LegFilter(
            joiner,
            plugged=leg.instance.plugged,
            hide=hider(leg.instance, asked=self._request.asks_ids(leg.instance)),
            event_limit_bytes=self._config.event_limit_bytes,
        )

    async def _grafter(self, leg: Leg, had: Transcript, ids: Sequence[int]) -> Grafter | Failure:
        recipe = self._request.recipe
        assert recipe is not None, "grafted only where it can be"
        sent = "".join(had.texts.get(channel, "") for channel in sorted(_CHANNELS))
        text = await self._text(leg, had, ids)
        held, seam = "", None
        if text is None:
            if recipe.stops or len(ids) > len(had.token_ids):
                message = f"{leg.instance.id} does not decode token ids"
                return Failure(FailureKind.UNABLE, message)
        else:
            whole = text.rstrip(REPLACEMENT)
            if not text.startswith(sent):
                raise Diverged(f"the text sent is not that of its {len(ids)} tokens")
            if whole == text:
                held = text[len(sent) :]
            else:
                seam = await self._seam(leg, had, ids, len(sent))
                if seam is None:
                    message = f"{leg.instance.id} ended in the middle of a character"
                    return Failure(FailureKind.BROKEN, message)
        return Grafter(
            had, recipe, ids, held=held, seam=seam, wants_usage=self._request.wants_usage
        )

    async def _seam(self, leg: Leg, had: Transcript, ids: Sequence[int], sent: int) -> str | None:
        """Read on to the first text there is, and give it as it is with the known tokens before it.

        The known tokens end within a character, of which the server has not seen the beginning.
        """
        while (until_text := _until_text(leg.first)) is None:
            try:
                more = await leg.read()
            except OSError:
                return None
            if not more:
                return None
            leg.first += more
        fresh = sse.token_ids(until_text)
        text = await self._text(leg, had, [*ids, *fresh])
        return None if text is None else text[sent:]

    async def _text(self, leg: Leg, had: Transcript, ids: Sequence[int]) -> str | None:
        return await self._server_calls.output_text(
            leg.instance, had.prompt_ids, ids, self._config.helper_timeout_s
        )


def _until_text(data: bytes) -> bytes | None:
    """Return the events up to the first with text, or the last; None until that has arrived."""
    size = 0
    for event in sse.events(data[: sse.complete(data)]):
        size += len(event)
        choice = only_choice(sse.payload(event) or {})
        if choice is None:
            continue
        if choice.get("finish_reason") is not None or any(h[k] for _, h, k in strings(choice)):
            return data[:size]
    return None
