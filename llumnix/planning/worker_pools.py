"""Where many simulations run: in processes on this machine, or on a Ray cluster."""

import argparse
import os
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass

from llumnix.errors import ConfigError


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """A pool of `processes` on this machine, or a Ray cluster if `ray` is not None.

    `ray` is its address; if empty, the cluster is the one that Ray finds or starts on this machine.
    """

    processes: int
    ray: str | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> "WorkerPool":
        """Read it from a command line (`add_pool_arguments`); raises ConfigError."""
        if args.ray is not None and args.jobs is not None:
            raise ConfigError(
                "--jobs applies to this machine only: with --ray, the cluster's cores decide"
            )
        processes = (os.cpu_count() or 1) if args.jobs is None else args.jobs
        if processes < 1:
            raise ConfigError(f"--jobs must be 1 or more, not {processes}")
        return cls(processes, args.ray)

    def open(self, tasks: int) -> tuple[Executor, int]:
        """Open the pool for a number of tasks; return it and the number that run at a time.

        Raises ConfigError if there is no such cluster.
        """
        if self.ray is None:
            width = min(self.processes, tasks)
            return ProcessPoolExecutor(width), width
        from llumnix.planning.ray_pool import RayPool

        cluster = RayPool(self.ray)
        return cluster, cluster.cores


def add_pool_arguments(parser: "argparse._ActionsContainer") -> None:
    """Add the flags that say where simulations run, and how many at a time."""
    parser.add_argument(
        "--jobs",
        type=int,
        default=None,
        metavar="N",
        help="number of simulations at a time (default: one per core)",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        default=None,
        metavar="ADDRESS",
        help="run on a Ray cluster, at HOST:PORT or ray://HOST:PORT; without an address, on the "
        "one at $RAY_ADDRESS or on this machine, where one is started if there is none",
    )
