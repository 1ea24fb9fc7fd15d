"""Parse OpenAI request bodies; anything wrong raises an `ApiError` that says what."""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from llumnix.emulator.errors import ApiError
from llumnix.emulator.model.vocabulary import VOCABULARY, chat_prompt, encode
from llumnix.emulator.requests import Sampling, valid_tokens

_DEFAULT_COMPLETION_TOKENS = 16
_LONGEST_OWNER = 64

Body = Mapping[str, object]


class CallKind(enum.Enum):
    """The two endpoints."""

    COMPLETION = "completion"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class ResumeField:
    """A request that began elsewhere: claimed by its migration, or recomputed.

    `fields` are as signed, and not to be trusted before the signature is verified. `early`: the
    request still runs elsewhere, and the claim would have to wait here for its migration.
    """

    fields: dict[str, object]
    request_id: str
    migration_id: str | None
    output_token_ids: tuple[int, ...] | None
    early: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed request body."""

    kind: CallKind
    prompt_token_ids: tuple[int, ...]
    sampling: Sampling
    stream: bool
    include_usage: bool
    return_token_ids: bool
    resume: ResumeField | None
    owner: str = ""
    """Whose the request is, if its output is to be remembered after its end."""


def read_call(kind: CallKind, raw: bytes, model: str, max_model_len: int) -> Call:
    """Parse a body; raises ApiError, 400 or 404, if the request cannot be served."""
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    asked = body.get("model")
    if asked is not None and asked != model:
        raise ApiError(
            404,
            f"The model {asked!r} does not exist; this server has {model!r}.",
            code="model_not_found",
            param="model",
        )
    if _integer(body, "n", 1, 1) != 1:
        raise ApiError(400, "n must be 1: only one choice per request is supported", param="n")
    prompt = _chat_prompt(body) if kind is CallKind.CHAT else _prompt(body)
    options = body.get("stream_options")
    return Call(
        kind=kind,
        prompt_token_ids=prompt,
        sampling=_sampling(kind, body, len(prompt), max_model_len),
        stream=_boolean(body, "stream"),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        return_token_ids=_boolean(body, "return_token_ids"),
        resume=_resume(body),
        owner=_owner(body),
    )


def _sampling(kind: CallKind, body: Body, prompt_tokens: int, max_model_len: int) -> Sampling:
    room = max_model_len - prompt_tokens
    if kind is CallKind.CHAT and body.get("max_completion_tokens") is not None:
        key, default = "max_completion_tokens", room
    else:
        key, default = "max_tokens", room if kind is CallKind.CHAT else _DEFAULT_COMPLETION_TOKENS
    given = body.get(key) is not None
    max_tokens = _integer(body, key, max(1, default), 1)
    if max_tokens > room:
        asked = f", {max_tokens} of them for the answer" if given else " with room for an answer"
        raise ApiError(
            400,
            f"This model's maximum context length is {max_model_len} tokens. However, you "
            f"requested {prompt_tokens + max_tokens} tokens{asked}. Please shorten the prompt or "
            f"lower {key}.",
            code="context_length_exceeded",
            param=key,
        )
    return Sampling(
        max_tokens=max_tokens,
        ignore_eos=_boolean(body, "ignore_eos"),
        min_tokens=_integer(body, "min_tokens", 0, 0),
        stop=_stop(body),
    )


def _prompt(body: Body) -> tuple[int, ...]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        prompt = encode(prompt)
    if not isinstance(prompt, list) or not all(type(token) is int for token in prompt):
        raise ApiError(400, "prompt must be one string or one list of token ids", param="prompt")
    if not valid_tokens(prompt):
        raise ApiError(400, f"token ids must be within 0..{VOCABULARY - 1}", param="prompt")
    if not prompt:
        raise ApiError(400, "prompt must not be empty", param="prompt")
    return tuple(prompt)


def _chat_prompt(body: Body) -> tuple[int, ...]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages must be a list with at least one message", param="messages")
    turns = []
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        content = _content(message.get("content")) if isinstance(message, dict) else None
        if not isinstance(role, str) or content is None:
            raise ApiError(
                400,
                f"messages[{index}] must have a role and text content",
                param=f"messages[{index}]",
            )
        turns.append({"role": role, "content": content})
    return tuple(chat_prompt(turns))


def _content(content: object) -> str | None:
    """Return the text of a message: a string, or a list of text parts; None for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part.get("text") if isinstance(part, dict) else None for part in content]
    if all(isinstance(text, str) for text in texts):
        return "".join(cast("list[str]", texts))
    return None


def _stop(body: Body) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise ApiError(400, "stop must be a string or a list of non-empty strings", param="stop")
    return tuple(stops)


def _resume(body: Body) -> ResumeField | None:
    params = body.get("kv_transfer_params")
    fields = params.get("llumnix") if isinstance(params, dict) else None
    match fields:
        case None:
            return None
        case {
            "request_id": str() as request_id,
            "migration_id": str() | None as migration_id,
            "output_token_ids": list() | None as outputs,
        } if outputs is None or valid_tokens(outputs):
            return ResumeField(
                fields,
                request_id,
                migration_id,
                None if outputs is None else tuple(outputs),
                early=fields.get("early") is True,
            )
    raise ApiError(400, "the resume field is malformed", param="kv_transfer_params")


def _owner(body: Body) -> str:
    params = body.get("kv_transfer_params")
    tag = params.get("llumnix_request") if isinstance(params, dict) else None
    owner = tag.get("owner") if isinstance(tag, dict) else None
    return owner if isinstance(owner, str) and len(owner) <= _LONGEST_OWNER else ""


def _integer(body: Body, key: str, default: int, least: int) -> int:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ApiError(400, f"{key} must be an integer of at least {least}", param=key)
    return value


def _boolean(body: Body, key: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"{key} must be true or false", param=key)
    return bool(value)
