"""A log line: whatever a field holds, the line is one line and gives the field back."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from llumnix.logs.line import LONGEST_VALUE, json_line, logfmt

VALUES = st.one_of(
    st.text(max_size=40),
    st.integers(-(10**12), 10**12),
    st.booleans(),
    st.none(),
    st.floats(allow_nan=False, width=32),
    st.lists(st.text(max_size=8), max_size=3),
)
FIELDS = st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, max_size=6)
PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "]*)(?: |$)')


def read_logfmt(line: str) -> dict[str, str]:
    """Read a line as a log collector does: pairs, quoted as in JSON where needed."""
    found, at = {}, 0
    while at < len(line):
        match = PAIR.match(line, at)
        assert match is not None, line[at:]
        value = match.group(2)
        found[match.group(1)] = json.loads(value) if value.startswith('"') else value
        at = match.end()
    return found


@given(FIELDS)
def test_a_collector_reads_back_every_key_and_text(fields: dict[str, object]) -> None:
    line = logfmt(fields)

    assert line.isprintable()
    assert line.isascii()
    read = read_logfmt(line)
    assert list(read) == list(fields)
    for name, value in fields.items():
        if isinstance(value, str):
            assert read[name] == value
        elif isinstance(value, int) and not isinstance(value, bool):
            assert read[name] == str(value)


@given(FIELDS)
def test_json_is_one_object_on_one_line(fields: dict[str, object]) -> None:
    line = json_line(fields)

    assert "\n" not in line
    read = json.loads(line)
    for name, value in fields.items():
        assert read[name] == value or isinstance(value, float)


def test_a_client_cannot_forge_a_second_line() -> None:
    line = logfmt({"model": 'x\nlevel=error event=forged \x1b[31m"'})

    assert "\n" not in line
    assert "\x1b" not in line
    assert set(read_logfmt(line)) == {"model"}


def test_a_value_without_end_is_cut() -> None:
    assert len(logfmt({"text": "x" * 10 * LONGEST_VALUE})) < 2 * LONGEST_VALUE


def test_what_json_lacks_is_text() -> None:
    told = {"inf": float("inf"), "nan": float("nan"), "error": ValueError("bad")}

    assert json.loads(json_line(told)) == {"inf": "inf", "nan": "nan", "error": "bad"}
