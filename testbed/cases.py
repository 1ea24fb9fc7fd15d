"""Requests of every kind whose answer a migration must not change.

Each is a body without prompt and `stream`, for one endpoint. They are for the tiny model: one token
is about one letter, the answers mean nothing, and with `ignore_eos` they have the requested length.
Where a parser needs words (tools, reasoning), a regular expression makes the model say them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llumnix.testbed.servers import MODEL_NAME
from llumnix.testbed.tokenizer import THINK_END_ID

Body = dict[str, Any]

OUTPUT_TOKENS = 160
STOP_LETTERS = 32
REASONING_PARSERS = ("granite", "deepseek_r1")
GRANITE_ARGUMENTS = (
    "--reasoning-parser=granite",
    '--structured-outputs-config={"enable_in_reasoning": true}',
)
DEEPSEEK_ARGUMENTS = ("--reasoning-parser=deepseek_r1",)
TOOL_ARGUMENTS = ("--enable-auto-tool-choice", "--tool-call-parser=hermes")


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request. `parser` is the reasoning parser its server must run, if any.

    `stop_of` makes stop strings out of the model's answer without them.
    """

    name: str
    chat: bool
    body: Mapping[str, Any]
    parser: str = ""
    stop_of: Callable[[str], list[str]] | None = field(default=None, compare=False)

    @property
    def path(self) -> str:
        """The endpoint's path."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    @property
    def held_letters(self) -> int:
        """How many letters a stream lags behind: vLLM holds back what might be a stop string."""
        shown = self.stop_of is None or self.body.get("include_stop_str_in_output")
        return 0 if shown else STOP_LETTERS - 1

    def whole_body(self, prompt: str, *, stream: bool, salt: str = "") -> Body:
        """The body to post; `salt` keeps it from finding another request's KV cached."""
        asked: Body = {"model": MODEL_NAME, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True}
        asked |= self.body
        if self.chat:
            asked["messages"] = [{"role": "user", "content": prompt}]
        else:
            asked["prompt"] = prompt
        if stream:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        if salt:
            asked["cache_salt"] = salt
        return asked


_GREEDY: Body = {"temperature": 0.0}
_SEED: Body = {"temperature": 0.9, "seed": 1234}
# The grammar decides where the answer ends.
_SPOKEN: Body = {**_SEED, "ignore_eos": False, "max_tokens": 300}
_PENALTIES: Body = {"presence_penalty": 0.7, "frequency_penalty": 0.3}
_WORDS = {"regex": "([a-z]{3,9} ){24}[a-z]+[.]"}
_LETTERS = [ord(letter) for letter in "etaoinshrdlu"]

_PLAIN: dict[str, Body] = {
    "greedy": _GREEDY,
    "greedy-ids": {**_GREEDY, "return_token_ids": True},
    "seed": _SEED,
    "seed-top": {**_SEED, "top_p": 0.9, "top_k": 40, "min_p": 0.01},
    "penalties": {**_GREEDY, **_PENALTIES},
    "seed-penalties": {**_SEED, **_PENALTIES},
    "repetition": {**_GREEDY, "repetition_penalty": 1.3},
    "min-tokens": {**_SEED, "min_tokens": 120, "stop_token_ids": _LETTERS},
    "logit-bias": {**_SEED, "logit_bias": {str(ord("q")): 3.0, str(ord("z")): -100.0}},
    "regex": {**_SPOKEN, "structured_outputs": _WORDS},
}

_SCHEMA: Body = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{30,60}$"},
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 9},
        "sort": {"enum": ["one", "another"]},
    },
    "required": ["name", "numbers", "sort"],
    "additionalProperties": False,
}
_JSON: Body = {
    **_SPOKEN,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}},
}
_TOOLS: list[Body] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look something up.",
            "parameters": {
                "type": "object",
                "properties": {
                    "what": {"type": "string", "pattern": "^[a-z ]{40,80}$"},
                    "where": {"enum": ["here", "there"]},
                },
                "required": ["what", "where"],
                "additionalProperties": False,
            },
        },
    }
]
_HERMES = (
    r"Let me see [a-z]{10,30} <tool_call>\n"
    r'\{"name": "look_up", "arguments": \{"what": "[a-z ]{40,80}", "where": "here"\}\}'
    r"\n</tool_call>"
)
_NAMED = {"type": "function", "function": {"name": "look_up"}}
_GRANITE = "Here is my thought process: [a-z ]{50,70} Here is my response: [a-z ]{40,60}"
# A small bias towards `</think>` at every step: it comes after some dozens of tokens.
_THINKING: Body = {"logit_bias": {str(THINK_END_ID): 3.2}}


def _chat_only() -> dict[str, Body]:
    return {
        "json": _JSON,
        "tool-auto": {
            **_SPOKEN,
            "tools": _TOOLS,
            "tool_choice": "auto",
            "structured_outputs": {"regex": _HERMES},
        },
        "tool-required": {**_SPOKEN, "tools": _TOOLS, "tool_choice": "required"},
        "tool-named": {**_SPOKEN, "tools": _TOOLS, "tool_choice": _NAMED},
        "logprobs": {**_SEED, "logprobs": True, "top_logprobs": 3},
    }


def _stop_after(place: int) -> Callable[[str], list[str]]:
    """Stop at a piece of whole letters after that place, long enough for a cut to fall into it."""

    def stop(text: str) -> list[str]:
        whole = (
            text[start : start + STOP_LETTERS]
            for start in range(place, len(text) - STOP_LETTERS)
            if "\N{REPLACEMENT CHARACTER}" not in text[start : start + STOP_LETTERS]
        )
        return [next(whole, text[place : place + 4])]

    return stop


def _stops() -> list[Case]:
    cases = []
    for place in (60, 100):
        for include in (False, True):
            body = {**_GREEDY, "include_stop_str_in_output": include}
            name = f"stop-{place}{'-kept' if include else ''}"
            cases += [Case(name, chat, body, stop_of=_stop_after(place)) for chat in (False, True)]
    return cases


def all_cases() -> list[Case]:
    """Every case for servers without a reasoning parser."""
    plain = [Case(name, chat, body) for name, body in _PLAIN.items() for chat in (False, True)]
    chat = [Case(name, True, body) for name, body in _chat_only().items()]
    completion = [
        Case("logprobs", False, {**_SEED, "logprobs": 3}),
        Case("logprobs-greedy", False, {**_GREEDY, "logprobs": 2, "return_token_ids": True}),
    ]
    return [*plain, *completion, *chat, *_stops()]


def reasoning_cases(parser: str) -> list[Case]:
    """The cases for servers with a reasoning parser."""
    if parser == "granite":
        said = {**_SPOKEN, "structured_outputs": {"regex": _GRANITE}}
        return [Case("granite", True, said, parser)]
    return [
        Case("think", True, {**_SEED, **_THINKING}, parser),
        Case("think-logprobs", True, {**_SEED, **_THINKING, "logprobs": True}, parser),
        # The grammar applies from the end of the thoughts on.
        Case("think-json", True, {**_JSON, **_THINKING, "max_tokens": 400}, parser),
    ]


def server_arguments(parser: str) -> tuple[str, ...]:
    """Further arguments of `vllm serve` for such cases."""
    if parser == "granite":
        return GRANITE_ARGUMENTS
    return DEEPSEEK_ARGUMENTS if parser else TOOL_ARGUMENTS
