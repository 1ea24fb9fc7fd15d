"""The systemd unit: what it runs, how it stops, and that systemd understands it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llumnix.cli import parser
from llumnix.frontend.config import FrontendConfig
from tests.deploy.parts import DEPLOY, unit, words_of

UNIT = DEPLOY / "systemd" / "llumnix.service"


def test_its_command_is_one_of_ours() -> None:
    command = words_of(unit(UNIT)["ExecStart"][0])

    assert Path(command[0]).name == "llumnix"
    parsed = parser("serve").parse_args(command[1:])
    assert str(parsed.config) == "/etc/llumnix/llumnix.yaml"
    loaded = {each.partition(":")[0] for each in unit(UNIT)["LoadCredential"]}
    asked = set(re.findall(r"CREDENTIALS_DIRECTORY}/([\w-]+)", " ".join(command)))
    assert asked == loaded


def test_it_reloads_by_hangup_and_waits_for_open_streams() -> None:
    read, usual = unit(UNIT), FrontendConfig()
    assert "-HUP" in read["ExecReload"][0]
    assert int(read["TimeoutStopSec"][0]) > usual.drain_delay_s + usual.shutdown_grace_s
    assert read["RestartPreventExitStatus"] == ["2"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """With an executable in place of ours, it has nothing to say."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/llumnix/bin/llumnix", "/bin/true"))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    about_ours = [line for line in told.stderr.splitlines() if "llumnix" in line]

    assert about_ours == []
    assert told.returncode == 0
