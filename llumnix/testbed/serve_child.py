"""Run the `vllm` command line, and exit when the parent process exits, for whatever reason.

`python -m llumnix.testbed.serve_child serve MODEL ...` in an environment with vLLM. The launcher
holds the other end of standard input and made this process the leader of its own group; when the
input closes, the whole group is killed, engine and workers with it.
"""

import os
import runpy
import signal
import sys
import threading


def _watch_stdin() -> None:
    descriptor = sys.stdin.fileno()
    while os.read(descriptor, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_watch_stdin, daemon=True, name="parent watch").start()
    runpy.run_module("vllm.entrypoints.cli.main", run_name="__main__", alter_sys=True)
