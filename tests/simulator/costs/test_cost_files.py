"""A preset in a file is the preset that was written, and what is wrong with one is named."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from simulator.costs.files import preset_document, read_preset
from simulator.costs.model import LinearCosts
from simulator.costs.presets import PRESETS, preset, preset_for
from simulator.costs.roofline_options import RooflineOptions
from simulator.costs.table import read_table
from tests.simulator.costs.test_cost_table import OURS
from tests.simulator.costs.test_roofline import LLAMA_8B

TOY_COSTS = preset("toy").costs
assert isinstance(TOY_COSTS, LinearCosts)
TOY = preset_document(preset("toy"))


def write(folder: Path, document: object) -> Path:
    path = folder / "preset.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    """All of it, and a word on the fit beside it; `preset` takes the file like a name."""
    path = write(tmp_path, preset_document(preset(name), {"error": 0.1}))
    assert read_preset(path) == preset(str(path)) == preset(name)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_servers_settings_are_kept_and_usually_left_out(tmp_path: Path, ahead: bool) -> None:
    known = replace(PRESETS["toy"], schedules_ahead=ahead, max_num_seqs=7, token_budget=70)
    assert read_preset(write(tmp_path, preset_document(known))) == known
    document = preset_document(known)
    for name in ("schedules_ahead", "max_num_seqs", "token_budget"):
        del document[name]
    assert read_preset(write(tmp_path, document)) == PRESETS["toy"]


def test_costs_may_come_from_a_table(tmp_path: Path) -> None:
    """The table lies beside the file."""
    (tmp_path / "costs.csv").write_text(OURS)
    path = write(tmp_path, TOY | {"costs": {"kind": "table", "file": "costs.csv"}})
    assert read_preset(path) == replace(preset("toy"), costs=read_table(tmp_path / "costs.csv"))


def test_all_may_come_from_a_roofline(tmp_path: Path) -> None:
    """A model and a GPU are enough, options go with them."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    asked = {"model_config": "config.json", "gpu": "L40S", "overlap": "full", "overhead_ns": 5}
    options = RooflineOptions(overlap="full", overhead_ns=5)
    found = read_preset(write(tmp_path, {"roofline": asked | {"memory_efficiency": 0.7}}))
    expected = preset_for(
        tmp_path / "config.json", "L40S", options=replace(options, memory_efficiency=0.7)
    )
    assert found == expected


def test_options_of_a_roofline_may_be_words_or_numbers(tmp_path: Path) -> None:
    """A share of overlap, nano-batches, and pages of 2 MiB."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    asked = {"model_config": "config.json", "gpu": "H100"}
    given = {"overlap": 0.5, "nano_batches": 2, "page_bytes": 2 << 20}
    found = read_preset(write(tmp_path, {"roofline": asked | given}))
    options = RooflineOptions(overlap=0.5, nano_batches=2, page_bytes=2 << 20)
    assert found == preset_for(tmp_path / "config.json", "H100", options=options)
    assert found.block_tokens == 1024


LINEAR = {"kind": "linear"} | asdict(TOY_COSTS)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected a JSON object"),
        ({"name": "x"}, "lacks block_tokens, capacity_tokens, costs"),
        (TOY | {"size": 1}, "unknown size; known: block_tokens"),
        (TOY | {"capacity_tokens": 0}, "capacity_tokens: expected a whole number, 1 or more"),
        (TOY | {"name": 5}, "name: expected a text, found 5"),
        (TOY | {"schedules_ahead": 1}, "schedules_ahead: expected true or false, found 1"),
        (TOY | {"costs": 5}, "costs: expected a JSON object"),
        (TOY | {"costs": {"kind": "guess"}}, "kind: expected linear or table, found 'guess'"),
        (TOY | {"costs": LINEAR | {"decode_base_ns": -1}}, "decode_base_ns: expected a whole"),
        (TOY | {"costs": LINEAR | {"base": 1}}, "costs: unknown base"),
        ({"roofline": {"gpu": "H100"}}, "roofline lacks model_config"),
        (
            {"roofline": {"gpu": "H100", "model_config": "c", "nano_batches": "2"}},
            "nano_batches: expected a",
        ),
        ({"roofline": {"gpu": 1, "model_config": "c"}}, "gpu: expected a text, found 1"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, document: object, message: str) -> None:
    """By file and key."""
    path = write(tmp_path, document)
    with pytest.raises(ValueError, match=message) as caught:
        preset(str(path))
    assert str(path) in str(caught.value)


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    """Missing, or no JSON."""
    with pytest.raises(ValueError, match="cannot read"):
        preset(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is not JSON"):
        preset(str(tmp_path / "bad.json"))


def test_only_linear_costs_are_written() -> None:
    """Other kinds have files of their own."""
    with pytest.raises(TypeError, match="not RooflineCosts"):
        preset_document(preset_for(LLAMA_8B, "H100"))
