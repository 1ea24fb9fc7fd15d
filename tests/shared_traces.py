"""Public traces that lie beside the project, never in it."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1].parent / "shared" / "traces"


def shared_trace(name: str) -> Path:
    """Find a file; where it is absent, the test is skipped and says what is missing."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"the public trace {name} is not in ../shared/traces: nothing was tested")
    return path
