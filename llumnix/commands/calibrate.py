"""`llumnix calibrate`: fit a cost model to the timestamps of a real server's requests."""

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llumnix.errors import ConfigError
from llumnix.results.json_output import write_json
from simulator.calibration.fit import Fit, fit
from simulator.calibration.measured import Measured, read_measured
from simulator.calibration.validate import (
    MEASURES,
    EngineSize,
    Errors,
    cross_validated,
    errors,
    largest_batch,
)
from simulator.costs.files import preset_document
from simulator.costs.model import Preset
from simulator.workload.request import WorkloadError

DESCRIPTION = """\
Fit linear step costs to the timestamps a server recorded for its own requests, and report how well
a simulation with these costs predicts requests they were not fitted to. The file has one JSON
object per line, with input_toks, output_toks, arrival_time, queued_ts, scheduled_ts, first_token_ts
and last_token_ts (seconds), as vLLM keeps them for each request. The preset goes to stdout, or to a
file that every --preset takes; the errors go to stderr."""


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `calibrate` command."""
    parser = commands.add_parser(
        "calibrate",
        help="fit a cost model to a server's own timestamps",
        description=DESCRIPTION,
    )
    parser.add_argument("requests", metavar="FILE", type=Path, help="the requests of one server")
    parser.add_argument(
        "--out", default="-", metavar="FILE", help="where to write the preset (default: stdout)"
    )
    parser.add_argument("--name", help="name of the preset (default: that of the file)")
    parser.add_argument(
        "--folds",
        type=int,
        default=5,
        metavar="N",
        help="number of blocks of time to validate on (default: 5)",
    )
    _add_server(parser)
    parser.set_defaults(run=run)


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the server that was measured")
    group.add_argument(
        "--token-budget", type=int, metavar="N", help="tokens per step (default: what fits best)"
    )
    group.add_argument(
        "--max-num-seqs", type=int, metavar="N", help="largest batch (default: the largest seen)"
    )
    group.add_argument(
        "--capacity-tokens",
        type=int,
        metavar="N",
        help="KV cache size in tokens (default: never a limit)",
    )
    group.add_argument(
        "--block-tokens",
        type=int,
        default=16,
        metavar="N",
        help="size of a KV block in tokens (default: 16)",
    )
    group.add_argument(
        "--kv-bytes-per-token",
        type=int,
        default=131_072,
        metavar="N",
        help="bytes of KV per token (default: 131072, as for Llama-3.1-8B in bf16)",
    )
    group.add_argument(
        "--link-bytes-per-s",
        type=int,
        default=8_000_000_000,
        metavar="N",
        help="bandwidth of the link that migrations use (default: 8000000000, that is 64 Gb/s)",
    )


def run(args: argparse.Namespace) -> int:
    """Fit, validate, write the preset."""
    for option in ("token_budget", "max_num_seqs", "capacity_tokens", "block_tokens"):
        if (value := getattr(args, option)) is not None and value < 1:
            raise ConfigError(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    try:
        measured = read_measured(args.requests)
        found = fit(measured, args.token_budget)
        batch = args.max_num_seqs or largest_batch(measured)
        engine = EngineSize(batch, args.capacity_tokens, args.block_tokens)
        validation = _validate(measured, found, engine, args.folds)
        preset = _preset(args, measured, found, engine)
    except (ValueError, WorkloadError) as error:
        raise ConfigError(str(error)) from error
    sys.stderr.writelines(_report(found, engine, validation))
    write_json(args.out, preset_document(preset, _calibration(found, engine, validation)))
    return 0


@dataclass(frozen=True, slots=True)
class Validation:
    """Errors of the fit to all requests, and of each block under costs fitted to the others."""

    in_sample: Errors
    held_out: list[Errors]


def _validate(measured: Measured, found: Fit, engine: EngineSize, folds: int) -> Validation:
    everything = np.ones(len(measured), dtype=np.bool_)
    return Validation(
        errors(measured, found, engine, everything, ahead=found.ahead),
        cross_validated(measured, found, engine, folds, ahead=found.ahead),
    )


def _preset(args: argparse.Namespace, measured: Measured, found: Fit, engine: EngineSize) -> Preset:
    block = args.block_tokens
    largest = int((measured.prompt_tokens + measured.output_tokens).max())
    capacity = args.capacity_tokens or largest_batch(measured) * largest
    capacity = max(capacity, largest) // block * block or block
    known = "as given" if args.capacity_tokens else "assumed ample: never a limit"
    return Preset(
        name=args.name or args.requests.name.removesuffix(".jsonl"),
        source=f"Fitted to {len(measured)} requests of {args.requests.name} by llumnix calibrate; "
        f"KV memory {known}; KV size and link as given.",
        costs=found.costs,
        capacity_tokens=capacity,
        block_tokens=block,
        max_model_len=capacity,
        kv_bytes_per_token=args.kv_bytes_per_token,
        link_bytes_per_s=args.link_bytes_per_s,
        max_num_seqs=engine.max_num_seqs,
        token_budget=max(found.token_budget, engine.max_num_seqs),
        schedules_ahead=found.ahead,
    )


def _calibration(found: Fit, engine: EngineSize, validation: Validation) -> dict[str, object]:
    return {
        "token_budget": found.token_budget,
        "max_num_seqs": engine.max_num_seqs,
        "decode_steps_usual_error": round(found.decode_error, 4),
        "prompt_steps_usual_error": round(found.prefill_error, 4),
        "in_sample": _rounded(validation.in_sample),
        "held_out": [_rounded(one) for one in validation.held_out],
    }


def _rounded(one: Errors) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(one).items()}


def _report(found: Fit, engine: EngineSize, validation: Validation) -> list[str]:
    ahead = "one step ahead" if found.ahead else "step by step"
    lines = [
        f"token budget {found.token_budget} per step, batch at most {engine.max_num_seqs}, "
        f"scheduled {ahead}\n",
        f"typical error of the fit: decode steps {found.decode_error:.1%}, steps with prompts "
        f"{found.prefill_error:.1%}\n",
        "errors of simulated means   requests" + "".join(f"{name:>9}" for name in MEASURES) + "\n",
    ]
    named = [("all, in sample", validation.in_sample)]
    named += [(f"held out, block {at}", one) for at, one in enumerate(validation.held_out, 1)]
    for name, one in named:
        cells = "".join(f"{getattr(one, measure):+9.1%}" for measure in MEASURES)
        lines.append(f"  {name:<25}{one.requests:>9}{cells}\n")
    lines.append(f"  {'held out, mean size':<34}{_sizes(validation.held_out)}\n")
    return lines


def _sizes(blocks: list[Errors]) -> str:
    """Format the mean absolute errors as cells."""
    means = [np.mean([abs(getattr(one, measure)) for one in blocks]) for measure in MEASURES]
    return "".join(f"{float(mean):9.1%}" for mean in means)
