"""The images: who runs what in them, and that nothing they are made of is missing."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest

from llumnix.cli import parser
from tests.deploy.parts import DEPLOY, exec_form, instructions

ROOT = DEPLOY.parent
FRONTEND = DEPLOY / "Dockerfile"
IMAGES = [FRONTEND, DEPLOY / "Dockerfile.vllm"]


def last(path: Path, name: str) -> str:
    """Return the last argument of an instruction: the one in force."""
    return [rest for each, rest in instructions(path) if each == name][-1]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_is_sent_to_the_builder(path: Path) -> None:
    """Whatever the ignore file hides from the builder cannot be copied."""
    ignore = path.with_name(path.name + ".dockerignore").read_text().splitlines()
    shown = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied = [
        word
        for name, rest in instructions(path)
        if name == "COPY" and not rest.startswith("--from")
        for word in rest.split()[:-1]
    ]

    assert set(copied) == shown
    assert [each for each in copied if not (ROOT / each).exists()] == []


def test_all_that_the_wheel_is_made_of_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], "pyproject.toml", "README.md", "LICENSE"}
    for path in IMAGES:
        copied = {
            word for name, rest in instructions(path) if name == "COPY" for word in rest.split()
        }
        assert needed <= copied, path


def test_signals_reach_the_process_and_its_words_are_ours() -> None:
    """In exec form it is PID 1; its flags are those of this version."""
    command = [*exec_form(last(FRONTEND, "ENTRYPOINT")), *exec_form(last(FRONTEND, "CMD"))]
    health = exec_form(last(FRONTEND, "HEALTHCHECK").partition("CMD")[2].strip())

    assert command[:2] == ["llumnix", "serve"]
    parsed = parser("serve").parse_args(command[1:])
    assert parsed.host == "0.0.0.0"
    assert f"http://127.0.0.1:{parsed.port}/health" in health[-1]
    assert str(parsed.port) == last(FRONTEND, "EXPOSE")


def test_it_runs_as_a_number_that_is_not_root_and_hides_nothing() -> None:
    assert re.fullmatch(r"[1-9]\d*(:\d+)?", last(FRONTEND, "USER"))
    text = FRONTEND.read_text()
    assert "PYTHONUNBUFFERED=1" in text
    for name, rest in instructions(FRONTEND):
        assert name != "ADD"
        assert not fnmatch.fnmatch(rest.lower(), "*secret*")


def test_extras_of_the_image_exist() -> None:
    (extras,) = (rest for name, rest in instructions(FRONTEND) if rest.startswith("EXTRAS="))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.removeprefix("EXTRAS=").split(",")) <= set(project["optional-dependencies"])


def test_the_plugins_image_leaves_vllms_versions_alone_and_lacks_nothing() -> None:
    """What vLLM has anyway is not installed again; all else that we depend on is."""
    of_vllm = {"aiohttp", "numpy", "pyyaml"}
    text = " ".join(
        rest for name, rest in instructions(DEPLOY / "Dockerfile.vllm") if name == "RUN"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {re.split(r"[<>=\[]", each)[0] for each in project["dependencies"]}

    assert "--no-deps ." in text
    assert {each for each in ours - of_vllm if each not in text.split()} == set()
