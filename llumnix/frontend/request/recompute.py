"""Resume a stream at a server without the plugin, as a request whose prompt is all text so far.

The server computes the prompt and the output so far as one prompt, and continues from there. It
knows nothing of what came before, so this is right only for requests whose output does not depend
on it: no grammar, tools or penalties that count the output, no seed (its draws would start over)
unless nothing is drawn, no log-probabilities. A parameter not known to be harmless is harmful.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llumnix.frontend.request.body import TRANSFER_PARAMS, dump

_COMPLETION_TOKENS = 16
"""vLLM's default limit of output tokens for a completion."""
_CAPS = ("max_tokens", "max_completion_tokens")

_HARMLESS = frozenset(
    {
        *("model", "prompt", "messages", "stream", "max_tokens", "max_completion_tokens"),
        *("min_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop"),
        *("include_stop_str_in_output", "stop_token_ids", "ignore_eos", "logit_bias", "user"),
        *("allowed_token_ids", "skip_special_tokens", "spaces_between_special_tokens"),
        *("return_token_ids", "priority", "service_tier", "request_id", "metadata", "store"),
        *("add_generation_prompt", "continue_final_message", "add_special_tokens", "documents"),
        *("chat_template", "chat_template_kwargs", "cache_salt", TRANSFER_PARAMS),
        *("parallel_tool_calls", "n", "best_of", "use_beam_search"),  # none or one, if resumable
    }
)


def _nothing(value: object) -> bool:
    return not value


_HARMLESS_IF: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "tools", "functions"), _nothing),
    **dict.fromkeys(("echo", "suffix", "top_logprobs", "bad_words"), _nothing),
    "logprobs": lambda value: value is None or value is False,
    "prompt_logprobs": lambda value: value is None,
    "tool_choice": lambda value: value in (None, "none"),
    "response_format": lambda value: value in (None, {"type": "text"}),
    "include_reasoning": lambda value: value in (None, True),
    "stream_options": lambda value: not (value or {}).get("continuous_usage_stats"),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to compute the rest of a request's output. `cap` is None if none was given."""

    chat: bool
    stops: tuple[str, ...]
    include_stop: bool
    min_tokens: int
    caps: Mapping[str, int]

    def exhausted(self, known: int) -> bool:
        """Return whether this many tokens exhaust the limit."""
        return any(cap <= known for cap in self.caps.values())

    def body(self, raw: bytes, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> bytes:
        """Return the body of the request that continues after these tokens.

        Stop strings are left out: one may straddle the cut, so the frontend looks for them.
        """
        parsed: dict[str, Any] = json.loads(raw)
        known = len(output_ids)
        parsed.pop("stop", None)
        parsed |= {name: cap - known for name, cap in self.caps.items()}
        if self.min_tokens:
            parsed["min_tokens"] = max(0, self.min_tokens - known)
        parsed["return_token_ids"] = True
        ids = [*prompt_ids, *output_ids]
        if self.chat:
            params = parsed.get(TRANSFER_PARAMS)
            others = params if isinstance(params, dict) else {}
            parsed[TRANSFER_PARAMS] = {**others, "prompt_token_ids": ids}
        else:
            parsed["prompt"] = ids
        return dump(parsed)


def recipe(parsed: Mapping[str, Any]) -> Recipe | None:
    """Return how to compute the rest of a (resumable) stream; None if it cannot be done."""
    if not all(_harmless(name, value) for name, value in parsed.items()):
        return None
    chat = "messages" in parsed
    if parsed.get("seed") is not None and parsed.get("temperature") != 0:
        return None
    if chat and not all(map(_plain, _listed(parsed["messages"]))):
        return None
    stop = parsed.get("stop")
    stops = (stop,) if isinstance(stop, str) else _listed(stop)
    caps = {name: parsed[name] for name in _CAPS if parsed.get(name) is not None}
    least = parsed.get("min_tokens") or 0
    if not all(isinstance(one, str) for one in stops) or not _whole(least, *caps.values()):
        return None
    return Recipe(
        chat=chat,
        stops=tuple(filter(None, stops)),
        include_stop=bool(parsed.get("include_stop_str_in_output")),
        min_tokens=least,
        caps=caps if chat or caps else {"max_tokens": _COMPLETION_TOKENS},
    )


def _listed(value: object) -> tuple[Any, ...]:
    """Return the items of a list; what is neither a list nor left out is one item."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _whole(*values: object) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _harmless(name: str, value: object) -> bool:
    if name == "seed" or name in _HARMLESS:
        return True
    known = _HARMLESS_IF.get(name)
    try:
        return known is not None and known(value)
    except (AttributeError, TypeError):
        return False


def _plain(message: object) -> bool:
    """Whether a message is plain text: a server renders any other again, whatever ids it has."""
    if not isinstance(message, dict) or message.get("tool_calls"):
        return False
    content = message.get("content")
    if isinstance(content, list):
        return all(isinstance(part, dict) and part.get("type") == "text" for part in content)
    return content is None or isinstance(content, str)
