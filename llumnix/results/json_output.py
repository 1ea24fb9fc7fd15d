"""Write what `--json FILE` of a command asks for."""

import json
import sys
from pathlib import Path

from llumnix.errors import ConfigError


def write_json(target: str | None, value: object) -> None:
    """Write a value as JSON to a file, to stdout (`-`) or nowhere (None); raises ConfigError."""
    if target is None:
        return
    text = json.dumps(value, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error
