"""What the frontend knows of a client's request: parsed once, with its body unchanged."""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llumnix.frontend.request.body import (
    asking_ids,
    in_utf8,
    transfer_params,
    with_member,
    without_forged,
)
from llumnix.frontend.request.recompute import Recipe, recipe
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance

CLASS_HEADERS = ("X-Llumnix-Class", "X-Request-Priority")
_CHARACTERS_PER_TOKEN = 4
_CHAT_TOKENS_PER_MESSAGE = 4
_ID = re.compile(r"[\x21-\x7e]{1,256}")
_LONGEST_ID = 256
_ID_DIGITS = 24
_IDS_AT_A_TIME = 64
_RANDOM: list[str] = []
_LONGEST_SHOWN = 40
_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})


@dataclass(frozen=True, slots=True)
class Classes:
    """The fleet's priority classes, most urgent first, and the one requests get by default.

    `ceiling` is the index of the most urgent class that this caller may use.
    """

    names: tuple[str, ...]
    default: str
    ceiling: int = 0

    def lowered(self, name: str) -> str:
        """Return the class that a caller gets who asks for this one."""
        return self.names[max(self.ceiling, self.names.index(name))]


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A completion or chat completion to be served.

    `body` is the client's, byte for byte, except for reserved fields (`forged` if it had any).
    `body_ids` asks for token ids besides, which the client did not ask for if `hides_ids`.
    Only a `resumable` request (see `_movable`) can be resumed by another instance. `prompt_tokens`
    is exact for token ids, else an estimate. `own_params` are the transfer parameters that the
    client gives. `tenant` is the caller's, empty without API keys; `output_limit_tokens` is what
    the client set, 0 if nothing. `owner` is set if the client may come back for the rest of its
    answer: a digest of who it is and what it asks. `recipe` says how a server
    without the plugin can resume it; None if it cannot.
    """

    path: str
    body: bytes
    forged: bool
    model: str | None
    streams: bool
    class_index: int
    class_name: str
    prompt_tokens: int
    resumable: bool
    hides_ids: bool
    wants_usage: bool
    own_params: Mapping[str, Any]
    recipe: Recipe | None
    tenant: str = ""
    output_limit_tokens: int = 0
    made_body_ids: bytes = b""
    owner: str = ""

    @property
    def body_ids(self) -> bytes:
        """Return the body, asking for token ids if it does not: made before if it is large."""
        if not self.hides_ids:
            return self.body
        return self.made_body_ids or asking_ids(self.body)

    def asks_ids(self, instance: Instance) -> bool:
        """Return whether to ask an instance for token ids that the client did not ask for.

        An emulated engine's whole response moves with the request; a vLLM's is requested again. A
        server without the plugin is asked if it is known to understand, and if that helps.
        """
        if instance.plugged:
            return self.hides_ids and (self.streams or instance.vllm)
        return self.hides_ids and instance.vllm and self.recipe is not None

    def original(self, instance: Instance) -> bytes:
        """Return the body of a request that starts at an instance."""
        return self.body_ids if self.asks_ids(instance) else self.body


def parse(
    path: str, raw: bytes, headers: Mapping[str, str], classes: Classes, tenant: str = ""
) -> ClientRequest | Refusal:
    """Parse a request's body and headers; a Refusal says what the client did wrong."""
    try:
        raw = in_utf8(raw)
        parsed = json.loads(raw)
    except (ValueError, RecursionError) as error:
        return Refusal(400, f"the body is not valid JSON: {error}", "invalid_json")
    if not isinstance(parsed, dict):
        return Refusal(400, "the body must be a JSON object", "invalid_json")
    wrong = _wrong(parsed)
    if wrong is not None:
        return wrong
    class_name = class_of(headers, parsed, classes)
    if isinstance(class_name, Refusal):
        return class_name
    body, forged = without_forged(raw, parsed)
    if classes.ceiling and is_urgent(parsed):
        body = with_member(body, "priority", value=0)  # servers may schedule by it themselves
    streams = is_true(parsed.get("stream"))
    resumable = _movable(parsed)
    hides_ids = resumable and not parsed.get("return_token_ids")
    options = parsed.get("stream_options")
    return ClientRequest(
        path=path,
        body=body,
        forged=forged,
        model=parsed.get("model") or None,
        streams=streams,
        class_index=classes.names.index(class_name),
        class_name=class_name,
        prompt_tokens=_prompt_tokens(parsed),
        resumable=resumable,
        hides_ids=hides_ids,
        wants_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        own_params=transfer_params(parsed),
        recipe=recipe(parsed) if streams and resumable else None,
        tenant=tenant,
        output_limit_tokens=_output_limit(parsed),
    )


def request_id(wanted: str | None, in_use: Mapping[Any, object]) -> str:
    """Return the id that the client chose, told apart from those in use; else a new one.

    Gateways choose ids of many forms, such as `Root=1-67891233-abcdef;Self=…` or base64. What is
    not visible ASCII, or longer than the control protocol allows, is no id.
    """
    if wanted is None or not is_id(wanted):
        return _new_id()
    if wanted not in in_use:
        return wanted
    suffix = f"~{secrets.token_hex(6)}"
    return wanted[: _LONGEST_ID - len(suffix)] + suffix


def _new_id() -> str:
    """Return 24 random hexadecimal digits; the system is asked for many of them at a time."""
    if not _RANDOM:
        digits = secrets.token_hex(_ID_DIGITS // 2 * _IDS_AT_A_TIME)
        starts = range(0, len(digits), _ID_DIGITS)
        _RANDOM.extend(digits[start : start + _ID_DIGITS] for start in starts)
    return _RANDOM.pop()


def is_id(text: str) -> bool:
    """Whether a text can be a request's id."""
    return _ID.fullmatch(text) is not None


def is_true(value: object) -> bool:
    """Whether vLLM reads a value as true: it is as lax as its validation is."""
    if isinstance(value, str):
        return value.strip().lower() in _TRUE
    return value == 1


def _wrong(parsed: dict[str, Any]) -> Refusal | None:
    model = parsed.get("model")
    if model is not None and not isinstance(model, str):
        return Refusal(400, "model must be a string", "invalid_value", "model")
    for name in ("max_tokens", "max_completion_tokens"):
        value = parsed.get(name)
        if isinstance(value, int | float) and value < 0:
            shown = str(value)[:_LONGEST_SHOWN]
            return Refusal(400, f"{name} must be at least 0, not {shown}", "invalid_value", name)
    return None


def class_of(
    headers: Mapping[str, str], parsed: Mapping[str, Any], classes: Classes
) -> str | Refusal:
    """Return a request's class, by its headers or else its body; a Refusal if there is no such."""
    for header in CLASS_HEADERS:
        name = headers.get(header)
        if name is None:
            continue
        if name in classes.names:
            return classes.lowered(name)
        known = ", ".join(classes.names)
        return Refusal(400, f"{header}: unknown class {name!r}; known: {known}", "unknown_class")
    urgent = is_urgent(parsed) or parsed.get("service_tier") == "priority"
    return classes.lowered(classes.names[0] if urgent else classes.default)


def is_urgent(parsed: Mapping[str, Any]) -> bool:
    """Whether a body asks to be served before others. vLLM: lower is sooner, 0 the default."""
    priority = parsed.get("priority")
    return isinstance(priority, int) and priority < 0


def _output_limit(parsed: Mapping[str, Any]) -> int:
    values = [parsed.get(name) for name in ("max_tokens", "max_completion_tokens")]
    return max((value for value in values if isinstance(value, int)), default=0)


def _movable(parsed: dict[str, Any]) -> bool:
    """Return whether a response can be joined from the parts of two instances.

    Not with several prompts or choices, or beam search; not with a prompt that is echoed (asking
    for token ids changes the echo) or scored, which the second instance does not repeat; and not if
    the server hides token ids, as it does for hidden reasoning.
    """
    return (
        _single(parsed)
        and parsed.get("prompt_logprobs") is None
        and not (parsed.get("echo") and "messages" not in parsed)
        and parsed.get("include_reasoning") is not False
    )


def _single(parsed: dict[str, Any]) -> bool:
    prompt = parsed.get("prompt")
    batch = isinstance(prompt, list) and (
        len(prompt) != 1 if prompt and isinstance(prompt[0], str | list) else False
    )
    choices = {parsed.get(name) for name in ("n", "best_of") if _hashable(parsed.get(name))}
    return choices <= {None, 1} and not batch and not parsed.get("use_beam_search")


def _hashable(value: object) -> bool:
    return value is None or isinstance(value, int | float | str)


def _prompt_tokens(parsed: dict[str, Any]) -> int:
    if "messages" in parsed:
        messages = parsed["messages"]
        if not isinstance(messages, list):
            return 1
        return max(1, sum(_message_tokens(message) for message in messages))
    prompt = parsed.get("prompt")
    prompts: Sequence[object] = prompt if isinstance(prompt, list) else [prompt]
    if prompts and isinstance(prompts[0], int):
        return len(prompts)
    return max(1, sum(_text_tokens(item) for item in prompts))


def _message_tokens(message: object) -> int:
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return _CHAT_TOKENS_PER_MESSAGE + sum(_text_tokens(text) for text in texts)


def _text_tokens(prompt: object) -> int:
    if isinstance(prompt, str):
        return -(-len(prompt) // _CHARACTERS_PER_TOKEN)
    return len(prompt) if isinstance(prompt, list) else 0
