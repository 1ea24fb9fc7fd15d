"""Read a list of servers as people write it: one URL a line, or YAML."""

import dataclasses
from typing import Any

import yaml

from llumnix.instances.config import InstanceSpec
from llumnix.instances.sources.source import Listing, SourceFailed

_FIELDS = {item.name: item for item in dataclasses.fields(InstanceSpec)}


def read_listing(text: str) -> Listing:
    """Read a list: `#` begins a comment, and YAML entries may be mappings as in the configuration.

    A list that is empty must say so, as `[]`: a file that is being written may be empty too. Raises
    SourceFailed.
    """
    lines = [line.partition(" #")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise SourceFailed("it lists no instance; if the fleet is to be empty, write []")
    if not any(line.startswith(("-", "[", "{")) or line.endswith(":") for line in lines):
        return tuple(_spec(line) for line in lines)
    try:
        parsed = yaml.safe_load(text)
    except Exception as error:  # a date that is none, say, raises what it raises
        raise SourceFailed(f"it is not valid YAML: {' '.join(str(error).split())}") from error
    if isinstance(parsed, dict) and parsed.keys() == {"instances"}:
        parsed = parsed["instances"]
    if not isinstance(parsed, list):
        raise SourceFailed("it must be a list of URLs or mappings")
    return tuple(_spec(each) for each in parsed)


def _spec(plain: Any) -> InstanceSpec:
    given = {"url": plain} if isinstance(plain, str) else plain
    if not isinstance(given, dict) or "url" not in given:
        raise SourceFailed(f"each entry must be a URL or a mapping with a url, not {plain!r}")
    for name, value in given.items():
        if name not in _FIELDS:
            raise SourceFailed(f"unknown key {name!r}; known: {', '.join(_FIELDS)}")
        if not isinstance(value, bool if name == "verify" else str):
            raise SourceFailed(f"{name} must not be {value!r}")
    try:
        spec = InstanceSpec(**given)
    except ValueError as error:
        raise SourceFailed(str(error)) from error
    if spec.source:
        raise SourceFailed(f"{spec.url} is no server; sources belong into the configuration")
    return spec
