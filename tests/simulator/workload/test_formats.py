"""Formats of others, by hand-written rows; and bad rows, which spoil no good one."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.workload.readers import read_trace, sniff
from simulator.workload.request import PromptBlocks, TraceRequest, WorkloadError
from simulator.workload.rows import BadRows

BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45.5,GPT-4,1087,230,1317,API log
118,GPT-4,417,0,417,API log
119,ChatGPT,1,2,3,Conversation log
"""
# The release with sessions has two columns more.
BURSTGPT_SESSIONS = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,\
Total tokens,Log Type
5,a1,3.2,ChatGPT,472,18,490,Conversation log
"""
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.25,374,44\n4.5,396,109\n"
SPLITWISE = """request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,\
token_size
0,2,0,0.5,1,100,10
1,2,0,2.0,1,200,20
"""
RECORDING = """request,class,tenant,status,reason,arrived_s,prompt_tokens,output_tokens,ttft_s
0,high,alice,completed,,0.25,40,4,0.1
1,normal,,rejected,too long,0.5,9000,0,
2,normal,bob,failed,,0.75,41,3,0.1
"""
BAILIAN = """{"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 30, \
"output_length": 9, "type": "text", "turn": 1, "hash_ids": [4]}
{"chat_id": 2, "parent_chat_id": 1, "timestamp": 2.75, "input_length": 60, "output_length": 8, \
"type": "text", "turn": 2, "hash_ids": [4, 5]}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "trace"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "name", "requests"),
    [
        (
            BURSTGPT,
            "burstgpt",
            [
                TraceRequest(0, 0.0, 472, 18),
                TraceRequest(1, 40.5, 1087, 230),
                TraceRequest(2, 114.0, 1, 2),
            ],
        ),
        (BURSTGPT_SESSIONS, "burstgpt", [TraceRequest(0, 0.0, 472, 18)]),
        (VIDUR, "vidur", [TraceRequest(0, 0.0, 374, 44), TraceRequest(1, 4.25, 396, 109)]),
        (
            "request_id,num_decode_tokens,num_prefill_tokens,arrived_at\nx,7,8,1\n",
            "vidur",
            [TraceRequest(0, 0.0, 8, 7)],
        ),
        (
            BAILIAN,
            "bailian",
            [
                TraceRequest(0, 0.0, 30, 9, prompt_blocks=PromptBlocks.of(16, [4])),
                TraceRequest(1, 2.25, 60, 8, prompt_blocks=PromptBlocks.of(16, [4, 5])),
            ],
        ),
        (
            SPLITWISE,
            "splitwise",
            [TraceRequest(0, 0.0, 100, 10), TraceRequest(1, 1.5, 200, 20)],
        ),
        (
            RECORDING,
            "recording",
            [
                TraceRequest(0, 0.0, 40, 4, "high", "alice"),
                TraceRequest(1, 0.5, 41, 3, "normal", "bob"),
            ],
        ),
    ],
)
def test_a_format_is_told_by_its_header_and_read(
    tmp_path: Path, text: str, name: str, requests: list[TraceRequest]
) -> None:
    path = written(tmp_path, text)
    assert sniff(path).name == name
    assert read_trace(path) == requests


@pytest.mark.parametrize(
    ("text", "story"),
    [
        (BURSTGPT.replace("417,0", "417,"), "line 4, column Response tokens: .* found nothing"),
        (BURSTGPT.replace("417,0", "-1,0"), "line 4, column Request tokens: expected a whole"),
        (BURSTGPT.replace("45.5", "soon"), "line 3, column Timestamp: expected a number"),
        (VIDUR.replace("4.5", "-4.5"), "line 3, column arrived_at: expected a number, 0 or more"),
        (SPLITWISE.replace("1,2,", "1,0,"), "line 3, column request_type: expected 2, an LLM"),
        (SPLITWISE.replace("2.0,1", "2.0,8"), "line 3, column batch_size: expected 1"),
        (RECORDING.replace(",41,", ",,"), "line 4, column prompt_tokens: .* found nothing"),
        (BAILIAN.replace("[4, 5]", "5"), "line 2, column hash_ids: expected a list of whole"),
        (BAILIAN.replace("[4, 5]", "[4, -5]"), "line 2, column hash_ids: expected a list of whole"),
        (
            BAILIAN.replace("[4, 5]", '[4, "5"]'),
            "line 2, column hash_ids: expected a list of whole",
        ),
        (BURSTGPT[: BURSTGPT.index("5,")], "holds no requests"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, story: str) -> None:
    with pytest.raises(WorkloadError, match=story):
        read_trace(written(tmp_path, text))


def test_bad_rows_are_skipped_and_counted_by_whoever_asks(tmp_path: Path) -> None:
    bad_rows = BadRows()
    path = written(tmp_path, VIDUR.replace("4.5", "soon") + "9,1,2\n8,1\n")
    assert read_trace(path, bad_rows=bad_rows) == [
        TraceRequest(0, 0.0, 374, 44),
        TraceRequest(1, 8.75, 1, 2),
    ]
    assert bad_rows.count == 2
    assert "line 3, column arrived_at" in str(bad_rows.first)


def test_a_file_of_bad_rows_only_holds_no_requests_and_says_why(tmp_path: Path) -> None:
    path = written(tmp_path, VIDUR.replace("0.25", "x").replace("4.5", "y"))
    with pytest.raises(WorkloadError, match=r"holds no requests; .*line 2, column arrived_at"):
        read_trace(path, bad_rows=BadRows())


def test_a_failed_request_is_no_bad_row(tmp_path: Path) -> None:
    bad_rows = BadRows()
    assert len(read_trace(written(tmp_path, BURSTGPT), bad_rows=bad_rows)) == 3
    assert bad_rows == BadRows()


GOOD_CSV = st.tuples(st.integers(0, 10**6), st.integers(0, 9999), st.integers(1, 9999)).map(
    lambda cells: ",".join(map(str, cells))
)
BAD_CSV = st.sampled_from(
    ["x,1,1", "1,1", "1,1,1,1", "1,-1,1", "nan,1,1", '"1,1,1', "1,1,1.5", "1,\udcff,1", '1,"1,1']
)
GOOD_JSON = st.tuples(st.integers(0, 20), st.integers(0, 9999), st.integers(1, 9999)).map(
    lambda cells: json.dumps(
        dict(zip(("timestamp", "input_length", "output_length"), cells, strict=True))
    )
)
BAD_JSON = st.sampled_from(
    ["{", "[]", "1", "{}", '{"timestamp": "x"}', "\udcff", '{"timestamp": 1, "input_length": 2}']
)


@pytest.mark.parametrize(
    ("name", "header", "good", "bad"),
    [
        ("vidur", "arrived_at,num_prefill_tokens,num_decode_tokens\n", GOOD_CSV, BAD_CSV),
        ("mooncake", "", GOOD_JSON, BAD_JSON),
    ],
)
@given(data=st.data())
def test_good_rows_are_unaffected_by_the_bad_rows_among_them(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    header: str,
    good: st.SearchStrategy[str],
    bad: st.SearchStrategy[str],
    data: st.DataObject,
) -> None:
    """Also where a reader looks at all rows together, as Mooncake's does."""
    rows = data.draw(
        st.lists(good.map(lambda row: (row, True)) | bad.map(lambda row: (row, False)), max_size=30)
    )
    rows.append((data.draw(good), True))
    folder = tmp_path_factory.mktemp("rows")
    clean, spoilt = folder / "clean", folder / "spoilt"
    clean.write_text(header + "".join(f"{row}\n" for row, fine in rows if fine))
    text = header + "".join(f"{row}\n" for row, _ in rows)
    spoilt.write_bytes(text.encode(errors="surrogateescape"))
    bad_rows = BadRows()
    assert read_trace(spoilt, name, bad_rows) == read_trace(clean, name)
    assert bad_rows.count == sum(not fine for _, fine in rows)
