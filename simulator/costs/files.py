"""Custom presets, in JSON files: written by `llumnix calibrate`, or by hand.

A file holds the fields of a `Preset`, with `costs` either linear or read from a table:

    {"name": "mine", "source": "measured in May",
     "costs": {"kind": "linear", "prefill_base_ns": 5000000, ...},
     "capacity_tokens": 13616, "block_tokens": 16, "max_model_len": 4096,
     "kv_bytes_per_token": 524288, "link_bytes_per_s": 8000000000}

    "costs": {"kind": "table", "file": "mine.csv", "where": {"hardware": "a100"}, "overhead_ns": 0}

or only a roofline, whose further keys are those of `RooflineOptions`:

    {"roofline": {"model_config": "config.json", "gpu": "H100", "tensor_parallel": 2}}

Paths are relative to the file. `calibration` may hold anything: how good the fit is.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import NoReturn

from simulator.costs.model import CostModel, LinearCosts, Preset
from simulator.costs.roofline import preset_for
from simulator.costs.roofline_options import RooflineOptions
from simulator.costs.table import read_table

SUFFIX = ".json"


def read_preset(path: Path) -> Preset:
    """Read a preset; raises ValueError naming the file and the wrong key."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    section = _Section(path, "", document)
    if "roofline" in section.values:
        section.expect({"roofline"})
        return _roofline(_Section(path, "roofline", section.values["roofline"]))
    names = {field.name for field in fields(Preset)}
    optional = {"max_num_seqs", "token_budget", "schedules_ahead", "calibration"}
    section.expect(names - optional, optional)
    return Preset(
        name=section.text("name"),
        source=section.text("source"),
        costs=_costs(_Section(path, "costs", section.values["costs"])),
        capacity_tokens=section.whole("capacity_tokens", 1),
        block_tokens=section.whole("block_tokens", 1),
        max_model_len=section.whole("max_model_len", 1),
        kv_bytes_per_token=section.whole("kv_bytes_per_token", 1),
        link_bytes_per_s=section.whole("link_bytes_per_s", 1),
        schedules_ahead=section.truth("schedules_ahead", usual=False),
        **{
            name: section.whole(name, 1)
            for name in ("max_num_seqs", "token_budget")
            if name in section.values
        },
    )


def preset_document(
    preset: Preset, calibration: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Turn a preset with linear costs into its file's content; raises TypeError for others."""
    if not isinstance(preset.costs, LinearCosts):
        raise TypeError(f"only linear costs are written, not {type(preset.costs).__name__}")
    document: dict[str, object] = {
        field.name: getattr(preset, field.name) for field in fields(Preset)
    }
    document["costs"] = {"kind": "linear", **asdict(preset.costs)}
    if calibration is not None:
        document["calibration"] = calibration
    return document


class _Section:
    """A JSON object within the file, and how its values are read."""

    def __init__(self, path: Path, name: str, values: object) -> None:
        self.path = path
        self._name = name
        if not isinstance(values, dict):
            raise ValueError(f"{self._where()}: expected a JSON object, found {values!r}")
        self.values: dict[str, object] = values

    def expect(self, required: set[str], optional: Collection[str] = ()) -> None:
        """Refuse missing or unknown keys."""
        if missing := sorted(required - set(self.values)):
            raise ValueError(f"{self._where()} lacks {', '.join(missing)}")
        if unknown := sorted(set(self.values) - required - set(optional)):
            known = ", ".join(sorted(required.union(optional)))
            raise ValueError(f"{self._where()}: unknown {', '.join(unknown)}; known: {known}")

    def text(self, key: str) -> str:
        value = self.values[key]
        return value if isinstance(value, str) else self._refuse(key, "a text", value)

    def whole(self, key: str, least: int) -> int:
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self._refuse(key, f"a whole number, {least} or more", value)
        return value

    def number(self, key: str) -> float:
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse(key, "a number", value)
        return value

    def truth(self, key: str, *, usual: bool) -> bool:
        """Read true or false, `usual` where it is left out."""
        value = self.values.get(key, usual)
        if not isinstance(value, bool):
            self._refuse(key, "true or false", value)
        return value

    def beside(self, key: str) -> Path:
        """Read a path that is relative to the file."""
        return self.path.parent / self.text(key)

    def texts(self, key: str) -> dict[str, str]:
        """Read an object of strings."""
        section = _Section(self.path, key, self.values[key])
        return {name: section.text(name) for name in section.values}

    def _where(self) -> str:
        return f"{self.path}, {self._name}" if self._name else str(self.path)

    def _refuse(self, key: str, expected: str, value: object) -> NoReturn:
        raise ValueError(f"{self._where()}, {key}: expected {expected}, found {value!r}")


def _costs(section: _Section) -> CostModel:
    kind = section.values.get("kind")
    if kind == "linear":
        names = {field.name for field in fields(LinearCosts)}
        optional = {field.name for field in fields(LinearCosts) if field.default == 0}
        section.expect(names - optional | {"kind"}, optional)
        present = names & set(section.values)
        return LinearCosts(**{name: section.whole(name, 0) for name in present})
    if kind == "table":
        section.expect({"kind", "file"}, {"where", "overhead_ns"})
        return read_table(
            section.beside("file"),
            section.texts("where") if "where" in section.values else None,
            section.whole("overhead_ns", 0) if "overhead_ns" in section.values else 0,
        )
    raise ValueError(f"{section.path}, costs, kind: expected linear or table, found {kind!r}")


def _roofline(section: _Section) -> Preset:
    options = {field.name for field in fields(RooflineOptions)}
    section.expect({"model_config", "gpu"}, {"tensor_parallel"} | options)
    given: dict[str, object] = {}
    for name in options & set(section.values):
        usual = getattr(RooflineOptions(), name)
        if isinstance(section.values[name], str):
            given[name] = section.text(name) if isinstance(usual, str) else section.number(name)
        elif isinstance(usual, int | None):
            given[name] = section.whole(name, 0)
        else:
            given[name] = section.number(name)
    ways = section.whole("tensor_parallel", 1) if "tensor_parallel" in section.values else 1
    return preset_for(
        section.beside("model_config"),
        section.text("gpu"),
        ways,
        RooflineOptions(**given),  # type: ignore[arg-type]
    )
