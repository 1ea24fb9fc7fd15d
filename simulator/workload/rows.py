"""The rows of a trace file, read one by one; errors name file, line and column."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from simulator.workload.request import PromptBlocks, WorkloadError

GZIP_MAGIC = b"\x1f\x8b"
# Lengths from here on are invalid.
MAX_TOKENS = 10**9


class RowError(WorkloadError):
    """One row of a trace cannot be used: it is malformed, or it is not a request."""


@dataclass(slots=True)
class BadRows:
    """Rows skipped while reading traces: how many, and what was wrong with the first.

    A caller that passes one to a reader wants bad rows skipped and counted; without one, the first
    bad row is raised.
    """

    count: int = 0
    first: RowError | None = None

    def add(self, error: RowError) -> None:
        """Count a row that could not be used."""
        self.count += 1
        self.first = self.first or error


def pass_over(error: RowError, bad_rows: BadRows | None) -> None:
    """Count a bad row, or raise it where nothing counts them."""
    if bad_rows is None:
        raise error
    bad_rows.add(error)


@dataclass(frozen=True, slots=True)
class Row:
    """One row; its methods raise RowError naming file, line, column and what was expected."""

    path: Path
    line: int
    cells: Mapping[str, object]

    def tokens(self, column: str) -> int:
        """Read a length in tokens: a whole number.

        Zero is read as one: a served request computes at least one prompt and one output token.
        """
        value = self.cells.get(column)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_TOKENS:
            self.refuse(column, "a whole number of tokens, 0 or more (below 10^9)")
        return max(1, value)

    def number(self, column: str) -> float:
        """Read a number, 0 or more."""
        value = self.cells.get(column)
        try:
            number = float(value) if isinstance(value, str | int | float) else float("nan")
        except (ValueError, OverflowError):
            number = float("nan")
        if isinstance(value, bool) or not 0.0 <= number < float("inf"):
            self.refuse(column, "a number, 0 or more")
        return number

    def moment_s(self, column: str) -> float:
        """Read a date and time, ISO 8601 like `2023-11-16 18:15:46.6805900` (UTC unless it says).

        Returns seconds since 1970.
        """
        try:
            moment = datetime.fromisoformat(str(self.cells.get(column)))
        except ValueError:
            self.refuse(column, "a time like 2023-11-16 18:15:46.6805900")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def text(self, column: str, default: str = "") -> str:
        """Read a string that may be absent."""
        value = self.cells.get(column, default)
        return value if isinstance(value, str) else self.refuse(column, "a text")

    def prompt_blocks(self, column: str, block_tokens: int) -> PromptBlocks | None:
        """Read a list of ids of a prompt's blocks, where there is one."""
        value = self.cells.get(column)
        if value is None:
            return None
        if not isinstance(value, list) or any(type(one) is not int for one in value):
            self.refuse(column, "a list of whole numbers")
        try:
            return PromptBlocks.of(block_tokens, value)
        except ValueError:
            self.refuse(column, "a list of whole numbers, 0 or more (below 2^64)")

    def refuse(self, column: str, expected: str) -> NoReturn:
        """Raise RowError: `column` holds something other than what was expected."""
        value = self.cells.get(column)
        found = "nothing" if value in (None, "") else repr(value)
        if len(found) > 60:
            found = f"{found[:60]}…"
        raise RowError(
            f"{self.path}, line {self.line}, column {column}: expected {expected}, found {found}"
        )


def open_text(path: Path) -> io.TextIOBase:
    """Open a plain or gzipped text file, whatever its name ends in.

    A byte that is not UTF-8 becomes a lone surrogate, so that it spoils only its own row.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == GZIP_MAGIC
        if zipped:
            return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
        return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise WorkloadError(f"cannot read {path}: {error.strerror or error}") from error


def csv_rows(
    path: Path, bad_rows: BadRows | None = None, header: Sequence[str] | None = None
) -> Iterator[Row]:
    """Yield the rows of a CSV file; its first line is the header unless one is given.

    A row is one line: a stray quote spoils no other. Blank lines are skipped.
    """
    for number, line in _lines(path, bad_rows):
        try:
            cells = next(csv.reader([line]))
        except csv.Error as error:
            pass_over(RowError(f"{path}, line {number}, column 1: expected CSV, {error}"), bad_rows)
            continue
        if header is None:
            header = cells
        elif len(cells) == len(header):
            yield Row(path, number, dict(zip(header, cells, strict=True)))
        else:
            story = (
                f"{path}, line {number}, column {min(len(cells), len(header)) + 1}: "
                f"expected {len(header)} columns ({', '.join(header)}), found {len(cells)}"
            )
            pass_over(RowError(story), bad_rows)


def json_rows(path: Path, bad_rows: BadRows | None = None) -> Iterator[Row]:
    """Yield the rows of a file with one JSON object per line; blank lines are skipped."""
    for number, line in _lines(path, bad_rows):
        try:
            cells = json.loads(line.rstrip())
        except (ValueError, RecursionError) as error:
            column, story = 1, str(error)
            if isinstance(error, json.JSONDecodeError):
                column, story = error.colno, error.msg
            where = f"{path}, line {number}, column {column}"
            pass_over(RowError(f"{where}: expected JSON, {story}"), bad_rows)
            continue
        if isinstance(cells, dict):
            yield Row(path, number, cells)
        else:
            error_text = f"{path}, line {number}, column 1: expected a JSON object"
            pass_over(RowError(error_text), bad_rows)


def first_line(path: Path) -> str:
    """Read the first line that is not blank, without its line end."""
    with open_text(path) as file:
        return next((line.strip() for line in _unspoilt(file, path) if line.strip()), "")


def _lines(path: Path, bad_rows: BadRows | None) -> Iterator[tuple[int, str]]:
    with open_text(path) as file:
        for number, line in enumerate(_unspoilt(file, path), start=1):
            if not line.strip():
                continue
            try:
                line.encode()
            except UnicodeEncodeError as error:
                where = f"{path}, line {number}, column {error.start + 1}"
                pass_over(RowError(f"{where}: expected text in UTF-8"), bad_rows)
            else:
                yield number, line


def _unspoilt(file: io.TextIOBase, path: Path) -> Iterator[str]:
    # A truncated .gz fails while it is read, not when it is opened.
    try:
        yield from file
    except (OSError, EOFError) as error:
        raise WorkloadError(f"cannot read {path}: {error}") from error
