"""The frontend where a container puts it: any user id, no name, no home, a read-only root."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request

import pytest

from tests.deploy.parts import DEPLOY

ROOT = DEPLOY.parent
UID = "54321"


def interpreter() -> str | None:
    """Return a Python of this version that any user may run; None if there is none."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for found in (f"/usr/bin/{name}", f"/usr/local/bin/{name}", sys.executable):
        try:
            told = subprocess.run(
                ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups", found, "-c", ""],
                capture_output=True,
                timeout=30,
                check=False,
            )
        except OSError:
            continue
        if told.returncode == 0:
            return found
    return None


def confined(*command: str, writable: str = "") -> subprocess.Popen[bytes]:
    """Start a command where nothing can be written, but `writable`."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT}:{sysconfig.get_paths()['purelib']}",
        "PYTHONUNBUFFERED": "1",
        **({"TMPDIR": writable} if writable else {}),
    }
    script = "set -e\nmount --make-rprivate /\n"
    script += f'mount -t tmpfs -o mode=1777 tmpfs "{writable}"\n' if writable else ""
    script += "mount -o remount,ro,bind / || mount -o remount,ro /\n"
    script += f'exec setpriv --reuid {UID} --regid {UID} --clear-groups --no-new-privs "$@"\n'
    return subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
    )


def announced(process: "subprocess.Popen[bytes]") -> str:
    """Wait for the line that a frontend prints when it serves; return its URL."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _, stderr = process.communicate(timeout=30)
        pytest.fail(f"it did not start: {stderr.decode(errors='replace')[-2000:]}")
    return str(json.loads(line)["url"])


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter that can be confined; skips where this machine does not allow it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("needs root, unshare and setpriv")
    found = interpreter()
    if found is None:
        pytest.skip("no interpreter that another user may run")
    probe = confined("touch", "/probe")
    _, told = probe.communicate(timeout=30)
    if b"Read-only" not in told and b"denied" not in told:
        pytest.skip(f"this machine cannot be made read-only: {told!r}")
    probe = confined(found, "-c", "import llumnix.cli, llumnix.commands.serve")
    _, told = probe.communicate(timeout=60)
    if probe.returncode != 0:
        pytest.skip(f"another user cannot read the project or what it needs: {told[-200:]!r}")
    return found


@pytest.mark.parametrize("writable", ["", "/mnt"], ids=["nothing writable", "a tmpfs"])
def test_it_serves_and_stops_cleanly(python: str, writable: str) -> None:
    """With no instance to speak of, it is alive and not ready; the log holds nothing but that."""
    arguments = ("serve", "--port", "0", "--announce", "--instance", "http://127.0.0.1:9")
    process = confined(python, "-m", "llumnix", *arguments, writable=writable)
    try:
        url = announced(process)
        with urllib.request.urlopen(url + "/health", timeout=20) as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        _, stderr = process.communicate(timeout=30)

    assert process.returncode == 0
    assert b"Traceback" not in stderr
    assert b"Error" not in stderr.replace(b"ClientConnectorError", b"")


def test_emulated_instances_need_no_more_than_a_tmpfs(python: str) -> None:
    arguments = ("serve", "--port", "0", "--announce", "--emulate", "1")
    process = confined(python, "-m", "llumnix", *arguments, writable="/mnt")
    try:
        url = announced(process)
        body = json.dumps({"prompt": "Hello", "max_tokens": 5}).encode()
        asked = urllib.request.Request(
            url + "/v1/completions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert json.loads(answer.read())["usage"]["completion_tokens"] == 5
    finally:
        process.terminate()
        _, stderr = process.communicate(timeout=30)

    assert process.returncode == 0
    assert b"Traceback" not in stderr
