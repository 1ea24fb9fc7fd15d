"""The keys file: what it holds, what it refuses, and what it never holds."""

import argparse
import io
import json
from pathlib import Path

import pytest

from llumnix.commands import keys as keys_command
from llumnix.errors import ConfigError
from llumnix.frontend.access.keys import hash_of, new_key, read_keys
from llumnix.frontend.request.request import Classes

CLASSES = ("high", "normal", "batch")


def made(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    parser = argparse.ArgumentParser()
    keys_command.add_arguments(parser.add_subparsers())
    args = parser.parse_args(["keys", "new", *words])
    assert args.run(args) == 0
    shown = capsys.readouterr()
    return shown.err.strip(), shown.out


def test_a_key_is_shown_once_and_its_entry_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.yaml"
    first, entry = made(capsys, "--tenant", "acme", "--tokens-per-minute", "900")
    second, other = made(capsys, "--tenant", "b: c", "--name", "ci", "--highest-class", "high")
    file.write_text(entry + other)
    assert first not in file.read_text()
    callers = read_keys(str(file), CLASSES)
    assert callers[hash_of(first)].tenant == "acme"
    assert callers[hash_of(first)].limits.tokens_per_minute == 900
    assert (callers[hash_of(second)].tenant, callers[hash_of(second)].name) == ("b: c", "ci")


def test_a_key_that_clients_have_already_can_be_stored(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = "sk-0123456789abcdef0123"
    monkeypatch.setattr("sys.stdin", io.StringIO(old + "\n"))
    shown, entry = made(capsys, "--tenant", "acme", "--existing")
    assert shown == ""
    assert json.loads(entry.removeprefix("- "))["sha256"] == hash_of(old)
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
    with pytest.raises(ConfigError, match="guessed"):
        made(capsys, "--tenant", "acme", "--existing")


def test_keys_differ_and_are_long() -> None:
    made_keys = {new_key() for _ in range(50)}
    assert len(made_keys) == 50
    assert min(len(key) for key in made_keys) >= 43


HASH = "0" * 64
WRONG = {
    "keys[0].tnant": [{"sha256": HASH, "tnant": "a"}],
    "sha256": [{"sha256": "plain-text-key", "tenant": "a"}],
    "tenant": [{"sha256": HASH, "tenant": ""}],
    "unknown class 'urgent'": [{"sha256": HASH, "tenant": "a", "highest_class": "urgent"}],
    "repeats": [{"sha256": HASH, "tenant": "a"}, {"sha256": HASH, "tenant": "b"}],
    "tokens_per_minute must be at least 1": [
        {"sha256": HASH, "tenant": "a", "tokens_per_minute": 0}
    ],
    "must be a list": {"keys": {"sha256": HASH}},
}


@pytest.mark.parametrize("advice", WRONG)
def test_an_entry_that_is_wrong_is_named(tmp_path: Path, advice: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(json.dumps(WRONG[advice]))
    with pytest.raises(ConfigError) as refused:
        read_keys(str(file), CLASSES)
    assert advice in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_broken_file_is_refused_without_being_quoted(tmp_path: Path) -> None:
    """Somebody may have put a key itself there."""
    file = tmp_path / "keys.yaml"
    file.write_text("- {sha256: llx-secret-key, tenant: 'a}\n")
    with pytest.raises(ConfigError) as refused:
        read_keys(str(file), CLASSES)
    assert "llx-secret" not in str(refused.value)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not text"):
        read_keys(str(file), CLASSES)
    with pytest.raises(ConfigError, match="cannot read"):
        read_keys(str(tmp_path / "absent"), CLASSES)


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.touch()
    assert read_keys(str(file), CLASSES) == {}


@pytest.mark.parametrize(
    ("entry", "default", "best"),
    [
        ({}, "normal", "normal"),
        ({"default_class": "batch"}, "batch", "batch"),
        ({"highest_class": "high"}, "normal", "high"),
        ({"default_class": "batch", "highest_class": "normal"}, "batch", "normal"),
        ({"default_class": "high", "highest_class": "batch"}, "batch", "batch"),
    ],
)
def test_a_header_can_only_lower_the_class_unless_the_key_allows(
    tmp_path: Path, entry: dict[str, str], default: str, best: str
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(json.dumps([{"sha256": HASH, "tenant": "a", **entry}]))
    own = read_keys(str(file), CLASSES)[HASH].classes(Classes(CLASSES, "normal"))
    assert own.lowered(own.default) == own.default == default
    assert own.lowered("high") == best
    assert own.lowered("batch") == "batch"
