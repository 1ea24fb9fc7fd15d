"""Shared by the benchmarks: a streaming client with a clock, and the last line they print."""

import json
import os
import platform
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure required by an issue: measured value, bound, and whether it holds."""

    name: str
    value: float | None
    bar: str
    ok: bool


def machine() -> dict[str, object]:
    """Name what the figures were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "uvloop": version("uvloop"),
    }


def finish(name: str, bars: Sequence[Bar], figures: dict[str, Any]) -> int:
    """Print the one JSON object that ends every benchmark; 0 when every bar holds."""
    print(
        json.dumps(
            {
                "benchmark": name,
                "machine": machine(),
                "figures": figures,
                "bars": [asdict(bar) for bar in bars],
            },
            default=lambda number: number.item(),
        )
    )
    return 0 if all(bar.ok for bar in bars) else 1


@dataclass(slots=True)
class Stream:
    """One streaming completion: when each token came, and which."""

    prompt: list[int]
    max_tokens: int
    request_id: str = field(default_factory=lambda: f"bench-{secrets.token_hex(6)}")
    times_s: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    error: str = ""
    done: bool = False
    local_port: int = 0
    """Of the connection, once the answer begins: it tells which process serves the stream."""

    async def run(
        self, session: aiohttp.ClientSession, url: str, extra: dict[str, Any] | None = None
    ) -> "Stream":
        """Post it and read it to its end; failures are kept in `error`."""
        body = {
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
            **(extra or {}),
        }
        headers = {"X-Request-Id": self.request_id}
        try:
            async with session.post(f"{url}/v1/completions", json=body, headers=headers) as answer:
                if answer.connection is not None and answer.connection.transport is not None:
                    self.local_port = answer.connection.transport.get_extra_info("sockname")[1]
                if answer.status != 200:
                    self.error = f"HTTP {answer.status}: {(await answer.text())[:200]}"
                    return self
                async for line in answer.content:
                    self._line(line)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.error = f"{type(error).__name__}: {error}"
        if not self.done and not self.error:
            self.error = "the stream ended without [DONE]"
        return self

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data: [DONE]"):
            self.done = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                self.error = str(event["error"])
                return
            ids = (event["choices"] or [{}])[0].get("token_ids") or ()
            now_s = time.monotonic()
            self.token_ids.extend(ids)
            self.times_s.extend([now_s] * len(ids))

    def intervals_s(self, first: int = 0) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """The time between tokens, from token `first` on."""
        return np.diff(np.array(self.times_s[first:]))


def prompt_ids(seed: int, n_tokens: int) -> list[int]:
    """Draw a prompt of token ids."""
    return [int(one) for one in np.random.default_rng(seed).integers(256, 4096, n_tokens)]
