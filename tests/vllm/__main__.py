"""What `make test-vllm` runs: `python -m tests.vllm VERSION...`, the first version whole.

For each version: the tests of what runs inside vLLM's processes, with the interpreter of its
environment; then those against live servers, with this one.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from llumnix.testbed.environment import VERSIONS, ensure_environment
from tests.vllm.live.chosen import CORE_VARIABLE, VERSION_VARIABLE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("version", nargs="*", default=list(VERSIONS), choices=VERSIONS)
    failed = []
    for number, version in enumerate(parser.parse_args().version):
        environment = ensure_environment(version)
        inside = [str(environment.python), "-m", "pytest", "-q", f"--ignore={HERE / 'live'}"]
        if not run(f"vLLM {version}, inside its processes", [*inside, str(HERE)], {}):
            failed.append(f"{version} inside")
        live = [sys.executable, "-m", "pytest", "-v", "--durations=0", "--durations-min=1"]
        chosen = {VERSION_VARIABLE: version, CORE_VARIABLE: "1" if number else ""}
        if not run(f"vLLM {version}, live servers", [*live, str(HERE / "live")], chosen):
            failed.append(f"{version} live")
    say(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


def run(what: str, command: Sequence[str], variables: Mapping[str, str]) -> bool:
    say(what)
    began_s = time.monotonic()
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    say(f"{what}: {'failed' if code else 'passed'} in {time.monotonic() - began_s:.0f} s")
    return code == 0


def say(text: str) -> None:
    print(f"=== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
