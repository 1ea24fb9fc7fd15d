"""The demo on real vLLM servers: the same comparison of policies, with nothing emulated.

The servers run a tiny model on this machine's CPU, with steps made longer, so a workload made for
GPUs is cut down: its lengths are divided, and its rate is set by what these servers are found to
do. That first pass also gives what every request must answer: run unmoved, greedily, in fp32.
"""

import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llumnix.errors import LaunchError
from llumnix.loadgen import Endpoint, LoadOptions, OutputChecker, PromptSource, run_load
from llumnix.loadgen.records import RequestRecord, Status
from llumnix.processes.frontend_process import launched_frontend
from llumnix.testbed.environment import ensure_environment
from llumnix.testbed.model import TinyModel, write_model
from llumnix.testbed.servers import MODEL_NAME, fleet_options, launched_vllm
from llumnix.testbed.trial import PolicyChoice
from simulator.workload.request import TraceRequest
from simulator.workload.transforms import at_rate

# Llama answers of hundreds of tokens on a GPU, tens to hundreds on a share of a CPU core.
_PROMPT_DIVISOR, _LONGEST_PROMPT = 6, 768
_OUTPUT_DIVISOR, _SHORTEST_OUTPUT, _LONGEST_OUTPUT = 2, 16, 512
# Memory for some four requests at once: whether it is well used makes the difference. Steps take as
# long as a larger model's, asleep: on few cores, servers that compute all the time measure those.
_BLOCKS, _CONTEXT = 48, 1408
_STEP_S = 0.02
# Freeness is counted in steps until memory is full: there is a tenth of a GPU's here.
_SETTINGS = ("scheduler.rebalance.low_steps=120", "scheduler.rebalance.high_steps=230")
_OPEN_PER_SERVER = 8
_MODEL = TinyModel(layers=4, hidden=256, intermediate=512, heads=8, kv_heads=4, head_size=32)


@dataclass(frozen=True, slots=True)
class VllmFleet:
    """Running servers that a trial puts a fresh frontend in front of."""

    urls: tuple[str, ...]
    secret_file: Path
    settings: tuple[str, ...] = ()
    log_dir: Path | None = None
    speed: float = 1.0

    def serve_arguments(self, policy: PolicyChoice) -> list[str]:
        """Arguments of `llumnix serve` over these servers under a policy."""
        arguments = ["--port=0", f"--secret-file={self.secret_file}"]
        arguments += [f"--instance={url}" for url in self.urls]
        arguments += [f"--policy={policy.dispatch}"]
        arguments += ["--migration" if policy.migration else "--no-migration"]
        for setting in self.settings:
            arguments += ["--set", setting]
        return arguments


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the servers were found to do: requests a second, all busy, and their answers."""

    rate_rps: float
    checker: OutputChecker


@asynccontextmanager
async def launched_fleet(
    version: str, count: int, settings: tuple[str, ...], log_dir: Path | None
) -> AsyncIterator[VllmFleet]:
    """Run servers with the plugin within the context; raises LaunchError."""
    environment = ensure_environment(version)
    folder = log_dir or Path(tempfile.mkdtemp(prefix="llumnix-vllm-"))
    folder.mkdir(parents=True, exist_ok=True)
    secret_file = folder / "secret"
    secret_file.write_text(secrets.token_hex(32))
    model = write_model(folder / "model", _MODEL)
    options = fleet_options(
        environment,
        model,
        count,
        secret=secret_file.read_text(),
        blocks=_BLOCKS,
        # Every policy gets the same prompts: none may find them cached by the one before.
        arguments=("--no-enable-prefix-caching",),
    )
    options = [
        replace(
            each,
            max_context=_CONTEXT,
            step_s=_STEP_S,
            plugin_settings={"instance_id": f"vllm-{number}"},
        )
        for number, each in enumerate(options)
    ]
    _say(f"starting {count} vLLM {version} servers")
    began_s = time.monotonic()
    async with launched_vllm(options, folder) as servers:
        _say(f"started in {time.monotonic() - began_s:.0f} s")
        urls = tuple(each.url for each in servers)
        yield VllmFleet(urls, secret_file, (*_SETTINGS, *settings), log_dir)


def cut_down(requests: Sequence[TraceRequest]) -> list[TraceRequest]:
    """Divide a workload's lengths so that a CPU can serve it."""
    return [
        replace(
            each,
            prompt_tokens=min(max(1, each.prompt_tokens // _PROMPT_DIVISOR), _LONGEST_PROMPT),
            output_tokens=min(
                max(_SHORTEST_OUTPUT, each.output_tokens // _OUTPUT_DIVISOR), _LONGEST_OUTPUT
            ),
        )
        for each in requests
    ]


async def rehearse(fleet: VllmFleet, requests: Sequence[TraceRequest], seed: int) -> Rehearsal:
    """Run the workload once as fast as it goes, unmoved; raises LaunchError if that fails."""
    # Printable letters, each a token.
    prompts = PromptSource(seed, low_id=0x20, high_id=0x7F)
    options = LoadOptions(
        MODEL_NAME,
        prompts=prompts,
        return_token_ids=True,
        max_open=_OPEN_PER_SERVER * len(fleet.urls),
    )
    at_once = [replace(each, arrival_s=0.0) for each in requests]
    arguments = fleet.serve_arguments(PolicyChoice("least-requests", migration=False))
    async with launched_frontend(arguments, fleet.log_dir) as url:
        began_s = time.monotonic()
        records = await run_load(at_once, Endpoint.parse(url), options)
        seconds = time.monotonic() - began_s
    answers = _answers(records, prompts)
    rate_rps = len(records) / seconds
    _say(f"rehearsed: {rate_rps:.2f} requests a second with all servers busy")

    def expected(prompt: Sequence[int], _max_tokens: int) -> Sequence[int]:
        return answers[tuple(prompt)]

    return Rehearsal(rate_rps, OutputChecker(prompts, expected))


def at_load(
    requests: Sequence[TraceRequest], rehearsal: Rehearsal, load: float
) -> list[TraceRequest]:
    """Bring a workload to a share of what the servers were found to do."""
    return at_rate(requests, load * rehearsal.rate_rps) if len(requests) > 1 else list(requests)


def _answers(
    records: Sequence[RequestRecord], prompts: PromptSource
) -> dict[tuple[int, ...], Sequence[int]]:
    failed = [record for record in records if record.status is not Status.FINISHED]
    if failed:
        raise LaunchError(
            f"{len(failed)} of {len(records)} requests failed when nothing was moved, the first "
            f"with: {failed[0].error}"
        )
    return {tuple(prompts.token_ids(one.request)): one.token_ids or () for one in records}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress, as the demo's own
