"""ServeGen folders: hand-written clients, generated requests."""

import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from simulator.workload.arrivals import gap_cv
from simulator.workload.load import load
from simulator.workload.request import TraceRequest, WorkloadError
from simulator.workload.rows import BadRows
from simulator.workload.servegen import generate
from simulator.workload.servegen_clients import read_clients
from simulator.workload.transforms import mean_rate_rps
from tests.shared_traces import shared_trace

# 0.5 requests a second: 300 in ten minutes.
BUSY = "0,0.5,1.0,Gamma,1.0,2.0\n600,0,0,,0,0\n1200,0.1,2.0,Weibull,0.7,5.0\n"
LENGTHS = {
    "0": {"input_tokens": "{10: 0.25, 20: 0.75}", "output_tokens": "{5: 1.0}"},
    "21600": {"input_tokens": "{}", "output_tokens": "{}"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add_client(tmp_path, "0", BUSY, LENGTHS)
    add_client(
        tmp_path,
        "12",
        "0,0.2,3.0,Gamma,0.11,45\n21600,0.2,1,Gamma,1,5\n",
        {
            "0": {"input_tokens": "{}", "output_tokens": "{}"},
            "21600": {"input_tokens": "{7: 2}", "output_tokens": "{0: 1}", "reason_ratio": "{}"},
        },
    )
    add_client(tmp_path, "3", "0,0,0,,0,0\n", {})
    return tmp_path


def add_client(folder: Path, name: str, trace: str, lengths: object) -> None:
    (folder / f"chunk-{name}-trace.csv").write_text(trace)
    (folder / f"chunk-{name}-dataset.json").write_text(json.dumps(lengths))


def test_every_window_has_the_requests_it_had(folder: Path) -> None:
    requests = generate(folder, seed=3)
    tenants = Counter(request.tenant for request in requests)
    assert tenants == {"client-0": 300 + 60, "client-12": 120 + 120}
    origin_s = 600.0 - max(r.arrival_s for r in requests if r.arrival_s < 600.0)
    counts = Counter((r.tenant, (r.arrival_s + origin_s) // 600.0) for r in requests[420:])
    assert set(counts.values()) == {60, 120}
    times_s = [request.arrival_s for request in requests]
    assert times_s[0] == 0.0
    assert times_s == sorted(times_s)
    assert [request.index for request in requests] == list(range(600))


def test_lengths_are_drawn_from_the_histogram_in_force(folder: Path) -> None:
    """The second client has none for its first window: the first it has stands in."""
    requests = generate(folder, seed=3)
    mine = [r for r in requests if r.tenant == "client-0"]
    assert {r.output_tokens for r in mine} == {5}
    longer = sum(r.prompt_tokens == 20 for r in mine)
    assert longer + sum(r.prompt_tokens == 10 for r in mine) == len(mine)
    assert longer / len(mine) == pytest.approx(0.75, abs=0.1)
    others = {(r.prompt_tokens, r.output_tokens) for r in requests if r.tenant == "client-12"}
    assert others == {(7, 1)}


def test_equal_arguments_give_equal_requests_and_fewer_begin_like_more(folder: Path) -> None:
    requests = generate(folder, seed=3)
    assert generate(folder, seed=3) == requests
    assert generate(folder, 50, seed=3) == requests[:50]
    assert generate(folder, seed=4) != requests


def test_another_client_shifts_nobodys_draws(folder: Path) -> None:
    before = [r for r in generate(folder, seed=3) if r.tenant == "client-0"]
    add_client(folder, "1", "1200,1,1,Gamma,1,1\n", LENGTHS)
    assert lengths_of(before) == lengths_of(
        [r for r in generate(folder, seed=3) if r.tenant == "client-0"]
    )


def lengths_of(requests: list[TraceRequest]) -> list[tuple[int, int]]:
    return [(request.prompt_tokens, request.output_tokens) for request in requests]


@pytest.mark.parametrize(("shape", "cv"), [(0.25, 2.0), (1.0, 1.0), (4.0, 0.5)])
def test_gaps_have_the_fitted_shape(tmp_path: Path, shape: float, cv: float) -> None:
    """Over many windows; the CV of Gamma gaps is 1 over the root of their shape."""
    rows = "".join(f"{600 * i},2,{cv},Gamma,{shape},1\n" for i in range(20))
    add_client(tmp_path, "0", rows, LENGTHS)
    times_s = np.array([request.arrival_s for request in generate(tmp_path, seed=1)])
    assert gap_cv(times_s) == pytest.approx(cv, rel=0.1)


@pytest.mark.parametrize(("pattern", "shape"), [("Gamma", "1e-320"), ("Weibull", "0.0005")])
def test_an_extreme_shape_still_gives_times(tmp_path: Path, pattern: str, shape: str) -> None:
    add_client(tmp_path, "0", f"0,0.5,9,{pattern},{shape},1\n", LENGTHS)
    assert len(generate(tmp_path)) == 300


def test_the_one_door_leads_to_folders_too(folder: Path) -> None:
    workload = load(folder, requests=100, rate=5.0, seed=3, high_share=0.5)
    assert mean_rate_rps(workload) == pytest.approx(5.0, rel=1e-3)
    assert {request.class_name for request in workload} == {"normal", "high"}


@pytest.mark.parametrize("count", [601, 0])
def test_what_is_not_described_cannot_be_generated(folder: Path, count: int) -> None:
    with pytest.raises(WorkloadError, match="describes 600 requests: ask for 1 to 600"):
        generate(folder, count)


def test_a_folder_of_more_than_memory_holds_asks_for_a_number(tmp_path: Path) -> None:
    add_client(tmp_path, "0", "0,1,1,Gamma,1,1\n600,10000,1,Gamma,1,1\n", LENGTHS)
    with pytest.raises(WorkloadError, match="ask for 1 to 5,000,000"):
        generate(tmp_path)
    assert len(generate(tmp_path, 100)) == 100


@pytest.mark.parametrize(
    ("trace", "lengths", "story"),
    [
        (BUSY.replace("0.5,", "much,"), LENGTHS, "trace.csv, line 1, column rate_rps: .* number"),
        (
            BUSY.replace("1200", "1201"),
            LENGTHS,
            "line 3, column window_start_s: .* multiple of 600",
        ),
        (BUSY.replace("Weibull", "Pareto"), LENGTHS, "line 3, column pattern: expected Gamma or W"),
        (BUSY.replace("0.7", "0"), LENGTHS, "line 3, column shape: expected a number above 0"),
        ("0,1\n", LENGTHS, "line 1, column 3: expected 6 columns"),
        (BUSY, [], "dataset.json, line 1, column 1: expected a JSON object"),
        (BUSY, {}, "holds no lengths"),
        (BUSY, {"0": {"text_tokens": "{1: 1}"}}, "window 0, column input_tokens: .*multimodal"),
        (BUSY, {"x": LENGTHS["0"]}, "window x"),
        (BUSY, {"0": {**LENGTHS["0"], "output_tokens": "{1: 2: 3}"}}, "column output_tokens"),
        (BUSY, {"0": {**LENGTHS["0"], "output_tokens": "{1: -2}"}}, "column output_tokens"),
        (BUSY, {"0": {**LENGTHS["0"], "output_tokens": "{1: x}"}}, "column output_tokens"),
    ],
)
def test_what_is_wrong_is_named_or_left_out_and_counted(
    folder: Path, trace: str, lengths: object, story: str
) -> None:
    sound = [r for r in generate(folder, seed=3) if r.tenant == "client-12"]
    add_client(folder, "0", trace, lengths)
    with pytest.raises(WorkloadError, match=story) as caught:
        generate(folder)
    assert "chunk-0-" in str(caught.value)
    bad_rows = BadRows()
    rest = [r for r in generate(folder, seed=3, bad_rows=bad_rows) if r.tenant == "client-12"]
    assert bad_rows.count >= 1
    assert lengths_of(rest) == lengths_of(sound)


def test_broken_json_and_missing_lengths_are_named(folder: Path) -> None:
    path = folder / "chunk-0-dataset.json"
    path.write_text('{"0": {\n"input_tokens" 1}}')
    with pytest.raises(WorkloadError, match=r"dataset.json, line 2, column 16: expected JSON"):
        generate(folder)
    path.unlink()
    with pytest.raises(WorkloadError, match=r"chunk-0-dataset.json is missing"):
        generate(folder)
    bad_rows = BadRows()
    assert {r.tenant for r in generate(folder, bad_rows=bad_rows)} == {"client-12"}
    assert bad_rows.count == 1


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="not a ServeGen folder"):
        load(tmp_path)


def test_the_published_reasoning_clients_are_read_whole(tmp_path: Path) -> None:
    """The figures of ServeGen's data/reason/deepseek-r1 are known."""
    with tarfile.open(shared_trace("servegen_deepseek_r1.tar.gz")) as packed:
        packed.extractall(tmp_path, filter="data")
    clients = read_clients(tmp_path)
    assert len(clients) == 73
    requests = generate(tmp_path)
    assert len(requests) == 1_383_669
    assert np.mean([r.prompt_tokens for r in requests]) == pytest.approx(1268, rel=0.02)
    assert np.mean([r.output_tokens for r in requests]) == pytest.approx(1527, rel=0.02)
