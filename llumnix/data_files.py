"""Finding the data shipped with the project: workload profiles and dashboards.

`traces/` and `dashboards/` are folders beside the packages in a source checkout, and lie in
`llumnix/data/` in an installed wheel.
"""

from importlib import resources
from pathlib import Path

import llumnix


def data_path(kind: str, name: str = "", package: Path | None = None) -> Path:
    """The path of a shipped file (or, without a name, of its folder); `kind` is its folder's name.

    `package` is the folder of the installed package (default: this one's).

    Raises FileNotFoundError when there is no such file.
    """
    installed = (package or Path(str(resources.files(llumnix)))) / "data" / kind / name
    checkout = Path(llumnix.__file__).parent.parent / kind / name
    for path in (installed, checkout):
        if path.exists():
            return path
    raise FileNotFoundError(f"{kind}/{name} is not among the files of this installation")


def data_names(kind: str, suffix: str) -> list[str]:
    """The names, without suffix, of the shipped files of a kind; empty when there are none."""
    try:
        folder = data_path(kind)
    except FileNotFoundError:
        return []
    return sorted(path.stem for path in folder.glob(f"*{suffix}"))
