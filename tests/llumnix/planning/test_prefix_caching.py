"""`--prefix-caching`, from a trace that tells which prompts begin alike to the figures of a run."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from llumnix.cli import main
from tests.shared_traces import shared_trace

FLEET = ["--instances=2", "--preset=toy", "--policy=round-robin"]


def mooncake(folder: Path, rows: list[tuple[int, int, int, list[int]]]) -> Path:
    """Write a trace: milliseconds, lengths, and ids of blocks of 512 tokens."""
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return path


def simulated(
    folder: Path, trace: Path, *arguments: str
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Simulate; gives the result, and a row a request."""
    found, table = folder / "out.json", folder / "rows.csv"
    assert main(["simulate", str(trace), *arguments, f"--json={found}", f"--out={table}"]) == 0
    with table.open() as file:
        return json.loads(found.read_text()), list(csv.DictReader(file))


def test_a_prompt_that_was_served_there_before_starts_sooner(tmp_path: Path) -> None:
    """Of 600 equal tokens, 592 are whole blocks; each instance computes them once."""
    trace = mooncake(tmp_path, [(1000 * at, 600, 4, [7, 8]) for at in range(6)])
    plain, without = simulated(tmp_path, trace, *FLEET)
    result, rows = simulated(tmp_path, trace, *FLEET, "--prefix-caching")
    assert [row["cached_tokens"] for row in rows] == ["0", "0", *["592"] * 4]
    assert result["cached_prompt_tokens"] == 4 * 592
    assert plain["cached_prompt_tokens"] is None
    assert {row["cached_tokens"] for row in without} == {"0"}
    ttft_s = [[float(row["ttft_s"]) for row in some] for some in (rows, without)]
    assert ttft_s[0][:2] == ttft_s[1][:2]
    assert all(cached < ttft_s[1][0] / 2 for cached in ttft_s[0][2:])


def test_prompts_that_have_nothing_in_common_are_served_as_ever(tmp_path: Path) -> None:
    """Not a figure changes, migrations included: only that nothing was found is said."""
    rows = [(20 * at, 100 + at, 5 if at % 2 else 300, [at]) for at in range(30)]
    fleet = [*FLEET[:2], "--policy=round-robin+migration", "--capacity-tokens=3072"]
    trace = mooncake(tmp_path, rows)
    plain, without = simulated(tmp_path, trace, *fleet)
    result, found = simulated(tmp_path, trace, *fleet, "--prefix-caching")
    assert plain["preemptions"] == 0
    assert plain["migrations_committed"] > 0
    assert result == plain | {"cached_prompt_tokens": 0}
    assert found == without


@pytest.mark.parametrize("source", ["azure-conv-2023", "power-law:S-S"])
def test_a_cache_that_can_find_nothing_is_refused(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", source, "--requests=5", *FLEET, "--prefix-caching"]) == 2
    assert "prefix_caching has no effect" in capsys.readouterr().err


def test_the_synthetic_mooncake_trace_shares_what_it_is_known_to_share(tmp_path: Path) -> None:
    """With memory for all, one instance finds what its rows say, but for parts of blocks.

    The check by hand: of each prompt, the longest beginning of ids that an earlier row had too.
    """
    requests = 200
    trace = shared_trace("mooncake/synthetic_trace.jsonl.gz")
    memory = ["--capacity-tokens=16000000", "--block-tokens=512", "--rate=5"]
    arguments = [*FLEET, "--instances=1", *memory, f"--requests={requests}", "--prefix-caching"]
    _, rows = simulated(tmp_path, trace, *arguments)
    seen: set[int] = set()
    with gzip.open(trace, "rt") as file:
        for row, line in zip(rows, file, strict=False):
            told = json.loads(line)
            ids = told["hash_ids"]
            known = next((at for at, one in enumerate(ids) if one not in seen), len(ids))
            most = (told["input_length"] - 1) // 512
            assert int(row["cached_tokens"]) == 512 * min(known, most)
            seen.update(ids[: told["input_length"] // 512])
