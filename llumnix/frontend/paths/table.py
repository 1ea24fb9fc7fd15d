"""The table of paths: what each one is to the frontend, and which are open to clients.

Pure: a method and a path in, a `Destination` out. A path that is neither in the table nor under
`/v1/` or `/v2/` is not open, because what is not known may control the server. Add a path by adding
a line; the table in docs/run-in-front-of-a-fleet.md follows it.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llumnix.frontend.paths.spelling import Spelling


class PathKind(enum.StrEnum):
    """What a path is to the frontend."""

    COMPLETION = "completion"
    """Generation that can be moved between instances."""
    GENERATION = "generation"
    """Generation that stays on its instance."""
    ENGINE = "engine"
    """Work for the engine of a model: placed by model and load, waits for room."""
    MODEL = "model"
    """Work of a model that its engine does not see: placed by model, waits for no room."""
    RESPONSE = "response"
    """Belongs to a stored response, and goes to the instance that stores it."""
    OWN = "own"
    """Answered here, for the whole fleet."""
    ANYWHERE = "anywhere"
    """Any instance can answer it."""
    REFUSED = "refused"
    """Controls a server, or is unknown: not open to clients."""


class Dialect(enum.StrEnum):
    """Whose API a path speaks: how its errors look, and what its streams say."""

    OPENAI = "openai"
    RESPONSES = "responses"
    MESSAGES = "messages"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table. Methods other than these are left to the server to refuse."""

    kind: PathKind
    methods: tuple[str, ...] = ("POST",)
    dialect: Dialect = Dialect.OPENAI


@dataclass(frozen=True, slots=True)
class Destination:
    """What a request's path is; `path` is how it is spelled towards instances.

    `known` paths are in the table: repeating them after a failure is harmless.
    """

    kind: PathKind
    path: str
    dialect: Dialect = Dialect.OPENAI
    known: bool = True


_READ = ("GET", "HEAD")
_COMPLETION = Rule(PathKind.COMPLETION)
_GENERATION = Rule(PathKind.GENERATION)
_ENGINE = Rule(PathKind.ENGINE)
_MODEL = Rule(PathKind.MODEL)
_ANYWHERE = Rule(PathKind.ANYWHERE, _READ)
_OWN = Rule(PathKind.OWN, _READ)
_RESPONSES = Rule(PathKind.GENERATION, dialect=Dialect.RESPONSES)
_MESSAGES = Rule(PathKind.GENERATION, dialect=Dialect.MESSAGES)
_STORED = Rule(PathKind.RESPONSE, (*_READ, "DELETE", "POST"), Dialect.RESPONSES)
_REFUSED = Rule(PathKind.REFUSED, ())
_OTHERS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

TABLE: Mapping[str, Rule] = {
    "/v1/completions": _COMPLETION,
    "/v1/chat/completions": _COMPLETION,
    "/v1/responses": _RESPONSES,
    "/v1/responses/*": _STORED,
    "/v1/messages": _MESSAGES,
    **dict.fromkeys(
        (
            *("/v1/chat/completions/batch", "/inference/v1/generate", "/generative_scoring"),
            *("/cohere/v2/chat", "/invocations"),
            *("/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/score", "/v1/score"),
            *("/rerank", "/v1/rerank", "/v2/rerank"),
            *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"),
            *("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"),
            *("/v1/videos", "/v1/moderations"),
        ),
        _ENGINE,
    ),
    **dict.fromkeys(
        (
            *("/tokenize", "/detokenize", "/v1/messages/count_tokens"),
            *("/v1/completions/render", "/v1/chat/completions/render", "/v1/responses/render"),
            *("/v1/messages/render", "/cohere/v2/chat/render"),
            *("/v1/completions/derender", "/v1/chat/completions/derender"),
        ),
        _MODEL,
    ),
    "/v1/models": _OWN,
    "/v1/models/*": _OWN,
    "/load": _OWN,
    "/ping": Rule(PathKind.OWN, ("GET", "HEAD", "POST")),
    "/v1/realtime": Rule(PathKind.MODEL, ("GET",)),
    **dict.fromkeys(
        ("/version", "/tokenizer_info", "/docs", "/docs/*", "/redoc", "/openapi.json"), _ANYWHERE
    ),
    **dict.fromkeys(
        (
            *("/sleep", "/wake_up", "/is_sleeping", "/pause", "/resume", "/is_paused"),
            *("/collective_rpc", "/server_info", "/get_world_size", "/kv_event_sources"),
            *("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
            *("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"),
            *("/start_profile", "/stop_profile", "/release_kv_cache_memory"),
            *("/scale_elastic_ep", "/is_scaling_elastic_ep", "/fault_tolerance/*"),
            *("/update_weights", "/init_weight_transfer_engine", "/start_weight_update"),
            *("/start_draft_weight_update", "/finish_weight_update", "/weight_info"),
            *("/shutdown_weight_transfer_engine", "/update_weight_version", "/weight_checker"),
            *("/abort_requests", "/inference/v1/abort_requests", "/metrics/*", "/llumnix/*"),
        ),
        _REFUSED,
    ),
}
"""Every path of vLLM's that the frontend knows. `*` at the end stands for anything below."""

_OPEN = ("/v1/", "/v2/")
_UNKNOWN = Rule(PathKind.MODEL, _OTHERS)


class Paths:
    """Looks paths up. `allowed` are patterns of paths that are open besides, such as `/sleep`."""

    def __init__(self, allowed: Sequence[str] = (), base_path: str = "") -> None:
        self._allowed = tuple(allowed)
        self._base_path = base_path

    def look_up(self, method: str, raw_path: str) -> Destination:
        """Return what a request is, by its method and its path as received (without a query)."""
        spelling = Spelling.of(raw_path, self._base_path)
        rule = _find(spelling.plain) if spelling.plain else _REFUSED
        if rule is None:
            unknown = _UNKNOWN if spelling.plain.startswith(_OPEN) else _REFUSED
            opened = matches(spelling.plain, self._allowed)
            rule, known = (_UNKNOWN if opened else unknown), False
        else:
            known = True
            if rule.kind is PathKind.REFUSED and matches(spelling.plain, self._allowed):
                rule = Rule(PathKind.ANYWHERE, _OTHERS)
        kind = rule.kind
        if kind is not PathKind.REFUSED and method not in rule.methods:
            kind = PathKind.ANYWHERE
        path = spelling.tidy if known else spelling.raw
        return Destination(kind, path, rule.dialect, known)


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Return whether a path fits one of these patterns."""
    return any(
        path.startswith(each[:-1]) if each.endswith("*") else path == each for each in patterns
    )


def _find(plain: str) -> Rule | None:
    rule = TABLE.get(plain)
    if rule is not None:
        return rule
    below = [each for each in TABLE if each.endswith("*") and plain.startswith(each[:-1])]
    return TABLE[max(below, key=len)] if below else None
