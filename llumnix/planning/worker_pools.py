"""Where many simulations run: in processes of this machine, or on a Ray cluster."""

import argparse
import os
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass

from llumnix.errors import ConfigError


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """So many `processes` here, or, where `ray` is not None, a cluster.

    `ray` is its address; empty, it is what Ray finds, or else starts on this machine.
    """

    processes: int
    ray: str | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> "WorkerPool":
        """Read it off a command line (`add_pool_arguments`); raises ConfigError."""
        if args.ray is not None and args.jobs is not None:
            raise ConfigError("--jobs is for this machine: with --ray, the cluster's cores decide")
        processes = (os.cpu_count() or 1) if args.jobs is None else args.jobs
        if processes < 1:
            raise ConfigError(f"--jobs must be 1 or more, not {processes}")
        return cls(processes, args.ray)

    def open(self, tasks: int) -> tuple[Executor, int]:
        """Open it for so many tasks, and say how many run at a time.

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
