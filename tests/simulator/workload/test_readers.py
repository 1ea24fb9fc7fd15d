"""Reading traces: formats, sniffing, and errors that say where."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

import simulator.workload
from simulator.workload import readers
from simulator.workload.arrivals import gap_cv
from simulator.workload.formats.llumnix import dump
from simulator.workload.formats.mooncake import spread
from simulator.workload.readers import known_formats, read_trace, sniff, trace_format
from simulator.workload.request import PromptBlocks, TraceRequest, WorkloadError

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55"""

MOONCAKE = '{"timestamp": 500, "input_length": 10, "output_length": 2}'

AZURE_REQUESTS = [
    TraceRequest(0, 0.0, 374, 44),
    TraceRequest(1, 4.314579, 396, 109),
    TraceRequest(2, 4.541877, 879, 55),
]


def written(folder: Path, text: str, name: str = "trace") -> Path:
    path = folder / name
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


@pytest.mark.parametrize("last", ["", "\n", "\n\n"], ids=["no final newline", "one", "two"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_azure_rows_are_all_read_however_the_file_ends(
    tmp_path: Path, last: str, line_end: str
) -> None:
    path = tmp_path / "trace"
    path.write_bytes((AZURE + last).replace("\n", line_end).encode())
    assert read_trace(path) == AZURE_REQUESTS


def test_a_gzipped_trace_reads_like_a_plain_one_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(gzip.compress(AZURE.encode()))
    assert read_trace(path) == AZURE_REQUESTS


def test_azure_stamps_of_2024_carry_a_zone_and_may_lack_a_fraction(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.500000+00:00,10,20\n"
        "2024-05-10 00:00:02+00:00,30,40\n"
    )
    assert read_trace(written(tmp_path, text)) == [
        TraceRequest(0, 0.0, 10, 20),
        TraceRequest(1, 1.5, 30, 40),
    ]


def test_rows_out_of_order_are_sorted_and_a_length_of_zero_is_one(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:00:05,7,0\n"
        "2023-11-16 18:00:01,5,6\n"
    )
    assert read_trace(written(tmp_path, text)) == [
        TraceRequest(0, 0.0, 5, 6),
        TraceRequest(1, 4.0, 7, 1),
    ]


def test_mooncake_rows_are_milliseconds(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 500, "input_length": 10, "output_length": 2, "hash_ids": [0]},
        {"timestamp": 2000, "input_length": 600, "output_length": 3, "hash_ids": [0, 1]},
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    assert read_trace(written(tmp_path, text)) == [
        TraceRequest(0, 0.0, 10, 2, prompt_blocks=PromptBlocks.of(512, [0])),
        TraceRequest(1, 1.5, 600, 3, prompt_blocks=PromptBlocks.of(512, [0, 1])),
    ]


def test_quantised_stamps_are_spread_over_their_slots() -> None:
    """Batches every 3 s become Poisson-like; each request stays in its slot, batches in order."""
    rng = np.random.default_rng(5)
    stamps = np.repeat(np.arange(1200) * 3.0, rng.integers(2, 20, 1200))
    spread_out = spread(stamps)
    assert ((spread_out >= stamps) & (spread_out < stamps + 3.0)).all()
    assert (np.diff(spread_out) >= 0).all()
    assert gap_cv(stamps) > 2.5
    assert 0.9 < gap_cv(spread_out) < 1.2
    assert spread(stamps).tolist() == spread_out.tolist()


def test_a_long_silence_is_not_filled_when_stamps_are_spread() -> None:
    stamps = np.array([0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 90.0, 90.0, 90.0, 93.0, 93.0, 93.0])
    spread_out = spread(stamps)
    assert ((spread_out - stamps) < 3.0).all()


def test_stamps_that_hardly_repeat_are_left_alone() -> None:
    stamps = [0.0, 0.04, 0.04, 0.3, 0.9, 1.4]
    assert spread(stamps).tolist() == stamps


def test_our_own_format_gives_back_what_was_written(tmp_path: Path) -> None:
    requests = [
        TraceRequest(0, 0.0, 10, 2),
        TraceRequest(1, 0.25, 11, 3, class_name="high", tenant="alice"),
        TraceRequest(2, 0.5, 11, 3, prompt_blocks=PromptBlocks.of(4, [7, 2**64 - 1, 0])),
    ]
    assert read_trace(written(tmp_path, "".join(dump(requests)))) == requests


@pytest.mark.parametrize(
    ("text", "story"),
    [
        (AZURE.replace("396", "many"), "line 3, column ContextTokens: expected a whole number"),
        (AZURE.replace(",55", ",-55"), "line 4, column GeneratedTokens: expected a whole number"),
        (AZURE.replace(",55", ",5.5"), "line 4, column GeneratedTokens: expected a whole number"),
        (AZURE.replace(",55", ","), "line 4, column GeneratedTokens: .* found nothing"),
        (AZURE.replace("2023-11-16 18:15:50", "noon"), "line 3, column TIMESTAMP: expected a time"),
        (AZURE.replace(",55", ""), "line 4, column 3: expected 3 columns .* found 2"),
        (AZURE.replace(",55", ",55,1"), "line 4, column 4: expected 3 columns .* found 4"),
        ('{"timestamp": 1, "input_length": 1}', "line 1, column output_length: .* found nothing"),
        ('{"timestamp": "x", "input_length": 1}', "line 1, column timestamp: expected a number"),
        ('{"timestamp": NaN, "input_length": 1}', "line 1, column timestamp: expected a number"),
        ('{"input_length": true, "timestamp": 1}', "line 1, column input_length: expected a whole"),
        ('{"input_length": 1, \n', "line 1, column 20: expected JSON"),
        (f"{MOONCAKE}\n[]", "line 2, column 1: expected a JSON object"),
        (f"{MOONCAKE}\n{'[' * 9000}", "line 2, column 1: expected JSON"),
        (f'{MOONCAKE}\n{{"timestamp": {"1" * 5000}}}', "line 2, column 1: expected JSON"),
        (f"{MOONCAKE}\n{MOONCAKE.replace('10', '1' * 400)}", "column input_length: .* whole"),
        (f"{MOONCAKE}\n{MOONCAKE.replace('500', '1' * 400)}", "column timestamp: .* number"),
        (AZURE.replace("396", "1" * 5000), "line 3, column ContextTokens: expected a whole number"),
        (AZURE.replace("396", "9" * 10), "line 3, column ContextTokens: .*below 10.9"),
        (AZURE.replace("396", "9" * 200_000), "line 3, column 1: expected CSV, field larger"),
        (AZURE.replace("396", '"396'), "line 3, column 3: expected 3 columns .* found 2"),
        (AZURE.replace("396", "\udcff"), "line 3, column 29: expected text in UTF-8"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no requests"),
        ("", "not a trace in a known format .*azure.*mooncake"),
        ("a,b\n1,2\n", "begins with 'a,b'"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_column_and_expectation(
    tmp_path: Path, text: str, story: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(WorkloadError, match=story) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(AZURE.encode() * 50)[:-20])
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path / "absent", tmp_path, broken, binary):
        with pytest.raises(WorkloadError, match=re.escape(str(path))):
            read_trace(path)


def test_an_unknown_format_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="azure, bailian, burstgpt, llumnix, mooncake"):
        read_trace(written(tmp_path, AZURE), "azzure")


def test_every_format_is_found_by_its_module_alone() -> None:
    """Nothing but the folder lists the formats."""
    folder = Path(next(iter(simulator.workload.__path__))) / "formats"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert modules == set(known_formats())


def test_a_format_registered_twice_is_refused() -> None:
    known_formats()
    with pytest.raises(ValueError, match="registered twice"):
        trace_format("azure", lambda line: False)(lambda row: None)


def test_the_example_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fifteen lines a contributor is shown really add a format."""
    monkeypatch.setattr(readers, "_FORMATS", dict(known_formats()))
    readme = Path(next(iter(simulator.workload.__path__))) / "README.md"
    [example] = re.findall(r"```python\n(.*?)```", readme.read_text(), re.S)
    code_lines = [line for line in example.split("\n") if line.strip()]
    assert len(code_lines) <= 15
    exec(compile(example, str(readme), "exec"), {})
    path = written(
        tmp_path,
        '{"input_toks": 10, "output_toks": 20, "arrival_time_ns": 5000000000}\n'
        '{"input_toks": 11, "output_toks": 21, "arrival_time_ns": 9000000000}\n',
    )
    assert sniff(path).name == "llmservingsim"
    assert read_trace(path) == [TraceRequest(0, 0.0, 10, 20), TraceRequest(1, 4.0, 11, 21)]
