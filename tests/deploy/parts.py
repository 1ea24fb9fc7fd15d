"""The files of `deploy/`, read."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
MANIFESTS = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """List every Kubernetes object, and the name of its file."""
    for path in MANIFESTS:
        for each in yaml.safe_load_all(path.read_text()):
            yield path.name, each


def one(kind: str, name: str) -> dict[str, Any]:
    """Find an object."""
    (found,) = (
        each for _, each in objects() if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    """Return the specification of a workload's pods."""
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


def instructions(path: Path) -> list[tuple[str, str]]:
    """Read a Dockerfile: instructions and arguments, without comments and line breaks."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    read = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, _, rest in read]


def exec_form(text: str) -> list[str]:
    """Read a command in exec form; raises ValueError for the shell's."""
    words = json.loads(text)
    assert isinstance(words, list)
    return [str(word) for word in words]


def unit(path: Path) -> dict[str, list[str]]:
    """Read a systemd unit: the values of each key, in order."""
    read: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            read.setdefault(key, []).append(value)
    return read


def words_of(command: str) -> list[str]:
    """Split a command as a shell would, without expanding anything."""
    return shlex.split(command)
