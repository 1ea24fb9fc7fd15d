"""Exit when the parent process exits, for whatever reason."""

import os
import sys
import threading


def exit_with_parent() -> None:
    """Exit as soon as standard input closes: the parent holds its other end while it lives."""
    threading.Thread(target=_watch_stdin, daemon=True, name="parent watch").start()


def _watch_stdin() -> None:
    descriptor = sys.stdin.fileno()
    while os.read(descriptor, 4096):
        pass
    os._exit(0)
