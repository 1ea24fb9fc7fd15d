"""Seeds and reading options that change nothing are errors; those that change something are not."""

from pathlib import Path

import pytest

from llumnix.cli import main

TWO_ROWS = (
    '{"arrival_s": 0, "prompt_tokens": 9, "output_tokens": 3}\n'
    '{"arrival_s": 1, "prompt_tokens": 5, "output_tokens": 2}\n'
)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.jsonl"
    path.write_text(TWO_ROWS)
    return str(path)


@pytest.mark.parametrize(
    ("more", "acts"),
    [
        ([], False),
        (["--policy=round-robin"], False),
        (["--policy=random"], True),
        (["--policy=power-of-two"], True),
        (["--draft-tokens=2", "--acceptance=0.5"], True),
        (["--requests=1"], True),
        (["--high-share=0.5"], True),
        (["--high-share=1"], False),
    ],
)
def test_a_seed_needs_something_to_draw(
    trace: str, more: list[str], acts: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole trace and a policy that draws nothing leave no room for one; 0 is no wish for one."""
    status = main(["simulate", trace, "--seed=3", "--instances=2", *more])
    assert status == (0 if acts else 2)
    assert ("--seed has no effect" in capsys.readouterr().err) is not acts
    assert main(["simulate", trace, "--seed=0", "--instances=2", *more]) == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["convert", "TRACE", "--seed=1"], "--seed"),
        (["inspect", "TRACE", "--seed=1", "--rate=2"], "--seed"),
        (["merge", "TRACE", "TRACE", "--seed=1"], "--seed"),
        (["convert", "power-law:M-M", "--format=llumnix"], "--format"),
        (["convert", "power-law:M-M", "--skip-bad-rows"], "--skip-bad-rows"),
        (["convert", "azure-conv-2023", "--skip-bad-rows", "--requests=3"], "--skip-bad-rows"),
        (["merge", "power-law:M-M", "azure-conv-2023", "--skip-bad-rows"], "--skip-bad-rows"),
        (["profile", "FOLDER", "--format=llumnix"], "--format"),
        (["generate", "azure-conv-2023", "--duration-s=9", "--format=llumnix"], "--format"),
        (["generate", "azure-conv-2023", "--duration-s=9", "--skip-bad-rows"], "--skip-bad-rows"),
    ],
)
def test_what_a_source_has_no_use_for_is_refused(
    trace: str, words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"TRACE": trace, "FOLDER": str(Path(trace).parent)}
    assert main(["workload", *(places.get(word, word) for word in words)]) == 2
    assert f"{named} has no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "TRACE", "--seed=1", "--requests=1"],
        ["convert", "TRACE", "--format=llumnix", "--skip-bad-rows"],
        ["inspect", "TRACE", "--seed=1", "--high-share=0.5"],
        ["convert", "azure-conv-2023", "--seed=1", "--requests=3"],
        ["merge", "TRACE", "power-law:M-M", "--seed=1"],
        ["merge", "TRACE", "power-law:M-M", "--skip-bad-rows"],
    ],
)
def test_what_a_source_has_a_use_for_is_taken(
    trace: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["workload", *(trace if word == "TRACE" else word for word in words)]) == 0
