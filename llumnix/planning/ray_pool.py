"""Simulations on a Ray cluster, as `concurrent.futures` has it.

Ray is imported here and nowhere else, and only when it is asked for. A node may have another
version of the simulator, and would give other results without a word: every task carries a digest
of the code it was sent by, and a node whose own differs refuses it.
"""

import functools
import hashlib
import importlib
import logging
import os
import pickle
import re
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llumnix.errors import ConfigError

T = TypeVar("T")

_PACKAGES = ("llumnix", "migration", "policies", "simulator")
_ADDRESS = re.compile(r"auto|local|(?:ray://)?(?P<host>[\w.\-]+|\[[\w:]+\]):(?P<port>\d+)")
_CONNECT_TIMEOUT_S = 5.0


class RayPool(Executor):
    """Runs each call as a Ray task of one core. `cores` is how many the cluster has.

    The first pool of a process connects to the cluster, or starts one; it lasts as long as the
    process. Paths that calls open are relative to the folder the pool was made in, on every node
    that has this folder. Raises ConfigError if Ray is not installed or the cluster not there.
    """

    def __init__(self, address: str = "") -> None:
        self._ray = _connected(address)
        self.cores = int(self._ray.cluster_resources().get("CPU", 1))
        self._task = self._ray.remote(_carry_out)
        self._asked: dict[Future[Any], Any] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See Executor; ConfigError is also what a node raises whose code differs."""
        call = self._ray.cloudpickle.dumps(functools.partial(fn, *args, **kwargs))
        answer: Future[T] = Future()
        ref = self._task.remote(code_digest(), str(Path.cwd()), call)
        self._asked[answer] = ref
        ref.future().add_done_callback(functools.partial(self._answered, answer))
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See Executor; the connection to the cluster is kept for the next pool."""
        if cancel_futures:
            for answer, ref in list(self._asked.items()):
                if answer.cancel():
                    self._ray.cancel(ref)
        if wait:
            self._ray.wait(list(self._asked.values()), num_returns=len(self._asked))

    def _answered(self, answer: Future[T], found: Future[T]) -> None:
        self._asked.pop(answer, None)
        if not answer.set_running_or_notify_cancel():
            return
        error = found.exception()
        if error is None:
            answer.set_result(found.result())
        else:
            # What a task raised comes wrapped in a traceback of its node; we want it as it was.
            cause = getattr(error, "cause", None)
            answer.set_exception(cause or ConfigError(f"a Ray task was lost: {error}"))


@functools.cache
def code_digest() -> str:
    """Sum up all code that may bear on a result: ours, and the versions of Python and numpy."""
    digest = hashlib.blake2b(f"{sys.version_info[:2]} {np.__version__}".encode(), digest_size=16)
    for package in _PACKAGES:
        folder = Path(str(importlib.import_module(package).__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _carry_out(digest: str, folder: str, call: bytes) -> Any:
    """Run a pickled call on a node of the cluster; other code may not even understand it."""
    if digest != code_digest():
        raise ConfigError(
            f"node {os.uname().nodename} has another version of llumnix-scheduler, numpy or "
            "Python: its results would differ; install the same on every node"
        )
    if Path(folder).is_dir():
        os.chdir(folder)
    return pickle.loads(call)()  # noqa: S301 - our own, by Ray, which runs any code anyway


def _check(address: str) -> None:
    """Raise ConfigError if that is no address, or nobody listens there: Ray would try for long."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(
            f"--ray {address!r} is no address: HOST:PORT, ray://HOST:PORT or auto; to give none, "
            "write --ray last"
        )
    if match["host"]:
        place = (match["host"].strip("[]"), int(match["port"]))
        try:
            socket.create_connection(place, _CONNECT_TIMEOUT_S).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"no Ray cluster answers at {address}: {error}") from error


def _connected(address: str) -> Any:
    """Give the module, connected; the first time in a process, that takes some seconds."""
    if address:
        _check(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise ConfigError(
            "--ray needs Ray: pip install llumnix-scheduler[ray], here and on the cluster"
        ) from None
    if not ray.is_initialized():
        try:
            ray.init(
                address=address or None,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ImportError, RuntimeError, ValueError) as error:
            story = "Ray's own words above may say why, such as a token it wants"
            raise ConfigError(f"no Ray cluster: {error} ({story})") from error
    return ray
