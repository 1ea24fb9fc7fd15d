"""Write responses in OpenAI's format; a stream's chunks are filled-in templates, for speed."""

import json
from collections.abc import Iterator, Sequence

from llumnix.emulator.model.vocabulary import JSON_TEXT, TEXT
from llumnix.emulator.openai import Call, CallKind
from llumnix.emulator.requests import EmulatedRequest, FinishReason

DONE = "data: [DONE]\n\n"


class StreamWriter:
    """Writes one response as server-sent events, one chunk per token; the last has the finish."""

    def __init__(self, call: Call, response_id: str, model: str, created_s: int) -> None:
        self._call = call
        self._cutter = TextCutter(call.sampling.stop) if call.sampling.stop else None
        head = _head(call.kind, response_id, model, created_s, streamed=True)
        self._head = "data: " + _compact(head)[:-1] + ',"choices":['
        text = '"delta":{"content":"' if call.kind is CallKind.CHAT else '"text":"'
        self._before = f'{self._head}{{"index":0,{text}'
        self._after = '"},"logprobs":null' if call.kind is CallKind.CHAT else '","logprobs":null'
        self._running = self._after + ',"finish_reason":null,"stop_reason":null'

    def opening(self) -> str:
        """Return the chunk before the first token: for chat, it holds the role."""
        if self._call.kind is not CallKind.CHAT:
            return ""
        role = '{"index":0,"delta":{"role":"assistant","content":""}'
        rest = ',"logprobs":null,"finish_reason":null,"stop_reason":null'
        return f"{self._head}{role}{rest}{self._ids('')}}}]}}\n\n"

    def chunks(self, tokens: Sequence[int], finish: FinishReason | None) -> str:
        """Return the chunks of these tokens; with `finish`, they are the last of the stream."""
        texts = self._texts(tokens, finish)
        out = [
            f"{self._before}{text}{self._running}{self._ids(token)}}}]}}\n\n"
            for text, token in zip(texts, tokens, strict=True)
        ]
        if finish is not None:
            if finish.finish_reason == "abort":
                out.append(self._last("", "", finish))
            else:
                out[-1] = self._last(texts[-1], tokens[-1], finish)
        return "".join(out)

    def usage(self, usage: dict[str, int]) -> str:
        """Return the chunk that holds only the usage."""
        return f'{self._head}],"usage":{_compact(usage)}}}\n\n'

    def _last(self, text: str, token: int | str, finish: FinishReason) -> str:
        stop_reason = _compact(finish.stop_reason)
        reasons = f',"finish_reason":"{finish.finish_reason}","stop_reason":{stop_reason}'
        return f"{self._before}{text}{self._after}{reasons}{self._ids(token)}}}]}}\n\n"

    def _ids(self, token: int | str) -> str:
        return f',"token_ids":[{token}]' if self._call.return_token_ids else ""

    def _texts(self, tokens: Sequence[int], finish: FinishReason | None) -> list[str]:
        if self._cutter is None:
            return [JSON_TEXT[token] for token in tokens]
        return [_compact(text)[1:-1] for text in self._cutter.cut(tokens, finish)]


class TextCutter:
    """Cuts the output text before a stop string, holding back what may be part of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._held = max(map(len, stop)) - 1
        self._text = ""
        self._sent = 0

    def cut(self, tokens: Sequence[int], finish: FinishReason | None) -> Iterator[str]:
        """Return the text that each token releases; with `finish`, the last releases the rest."""
        for index, token in enumerate(tokens):
            self._text += TEXT[token]
            end = len(self._text) - self._held
            if index == len(tokens) - 1 and finish is not None and finish.finish_reason != "abort":
                end = len(self._text) if finish.text_end is None else finish.text_end
            end = max(end, self._sent)
            yield self._text[self._sent : end]
            self._sent = end


def whole_answer(
    call: Call, request: EmulatedRequest, response_id: str, model: str, created_s: int
) -> bytes:
    """Return the body of a response that is not streamed."""
    assert request.finish is not None, "only a finished response can be written whole"
    outputs, finish = request.outputs, request.finish
    text = "".join(TEXT[token] for token in outputs)[: finish.text_end]
    choice: dict[str, object] = {"index": 0}
    if call.kind is CallKind.CHAT:
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    choice["logprobs"] = None
    choice["finish_reason"] = finish.finish_reason
    choice["stop_reason"] = finish.stop_reason
    if call.return_token_ids:
        choice["token_ids"] = outputs
    body = _head(call.kind, response_id, model, created_s, streamed=False)
    return _compact({**body, "choices": [choice], "usage": usage_of(request)}).encode()


def usage_of(request: EmulatedRequest) -> dict[str, int]:
    """Count the prompt and all outputs, those computed elsewhere too."""
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": request.output_tokens,
        "total_tokens": request.prompt_tokens + request.output_tokens,
    }


def _head(
    kind: CallKind, response_id: str, model: str, created_s: int, *, streamed: bool
) -> dict[str, object]:
    name = "text_completion"
    if kind is CallKind.CHAT:
        name = "chat.completion.chunk" if streamed else "chat.completion"
    return {"id": response_id, "object": name, "created": created_s, "model": model}


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
