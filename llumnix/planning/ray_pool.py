"""Simulations on a Ray cluster, behind the interface of `concurrent.futures`.

Ray is imported only here, and only on request. A node with another version of the simulator would
silently give other results, so every task carries a digest of the code that sent it, and a node
whose own digest differs refuses it.
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
    """Runs each call as a Ray task of one core. `cores` is the number of cores in the cluster.

    The first pool of a process connects to the cluster, or starts one, for as long as the process
    runs. Paths that calls open are relative to the folder in which the pool was made, on every node
    that has this folder. Raises ConfigError if Ray is not installed or the cluster unreachable.
    """

    def __init__(self, address: str = "") -> None:
        self._ray = _connected(address)
        self.cores = int(self._ray.cluster_resources().get("CPU", 1))
        self._task = self._ray.remote(_carry_out)
        self._asked: dict[Future[Any], Any] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See Executor; a node whose code differs raises ConfigError."""
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
            # An exception of a task comes wrapped in its node's traceback: raise the original.
            cause = getattr(error, "cause", None)
            answer.set_exception(cause or ConfigError(f"a Ray task was lost: {error}"))


@functools.cache
def code_digest() -> str:
    """Return a digest of all code that may affect a result, including Python and numpy versions."""
    digest = hashlib.blake2b(f"{sys.version_info[:2]} {np.__version__}".encode(), digest_size=16)
    for package in _PACKAGES:
        folder = Path(str(importlib.import_module(package).__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _carry_out(digest: str, folder: str, call: bytes) -> Any:
    """Run a pickled call on a node of the cluster, if the node's code is the same."""
    if digest != code_digest():
        raise ConfigError(
            f"node {os.uname().nodename} has another version of llumnix-scheduler, numpy or "
            "Python, so its results would differ; install the same versions on every node"
        )
    if Path(folder).is_dir():
        os.chdir(folder)
    return pickle.loads(call)()  # noqa: S301 - our own, by Ray, which runs any code anyway


def _check(address: str) -> None:
    """Raise ConfigError for a bad address or if nothing listens there: Ray would retry long."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigError(
            f"--ray {address!r} is not HOST:PORT, ray://HOST:PORT or auto; to give no address, "
            "write "
            "--ray last"
        )
    if match["host"]:
        place = (match["host"].strip("[]"), int(match["port"]))
        try:
            socket.create_connection(place, _CONNECT_TIMEOUT_S).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"no Ray cluster responds at {address}: {error}") from error


def _connected(address: str) -> Any:
    """Return the connected module; the first call in a process takes some seconds."""
    if address:
        _check(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray would send usage reports
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
            story = "Ray's own output above may say why, such as a missing token"
            raise ConfigError(f"no Ray cluster: {error} ({story})") from error
    return ray
