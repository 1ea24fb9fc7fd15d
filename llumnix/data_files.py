"""Find the data files shipped with the project: workload profiles and dashboards.

In a source checkout, `traces/` and `dashboards/` are folders beside the packages; in an installed
wheel they are in `llumnix/data/`.
"""

from importlib import resources
from pathlib import Path

import llumnix


def data_path(kind: str, name: str = "", package: Path | None = None) -> Path:
    """Return the path of a shipped file (or, without a name, its folder); `kind` names the folder.

    `package` is the folder of the installed package (default: this one's).

    Raises FileNotFoundError if there is no such file.
    """
    installed = (package or Path(str(resources.files(llumnix)))) / "data" / kind / name
    checkout = Path(llumnix.__file__).parent.parent / kind / name
    for path in (installed, checkout):
        if path.exists():
            return path
    raise FileNotFoundError(f"{kind}/{name} is not among the files of this installation")


def data_names(kind: str, suffix: str) -> list[str]:
    """Return the names, without suffix, of the shipped files of a kind; empty if there are none."""
    try:
        folder = data_path(kind)
    except FileNotFoundError:
        return []
    return sorted(path.stem for path in folder.glob(f"*{suffix}"))
