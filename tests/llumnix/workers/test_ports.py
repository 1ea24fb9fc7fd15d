"""A held port stays ours while those who listen there come and go; it is not taken from others."""

import socket
from contextlib import closing

import pytest

from llumnix.workers.ports import HeldPort


def _listener(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen()
    return listening


def test_several_listen_on_a_held_port_and_one_may_end() -> None:
    with closing(HeldPort("127.0.0.1", 0)) as held:
        with closing(_listener(held.port)), closing(_listener(held.port)):
            pass
        # Nobody listens now: a port that is only held takes no connections.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", held.port))
        with closing(_listener(held.port)):
            socket.create_connection(("127.0.0.1", held.port)).close()


def test_a_port_on_which_others_listen_is_not_taken_even_if_they_would_share_it() -> None:
    with (
        closing(HeldPort("127.0.0.1", 0)) as held,
        closing(_listener(held.port)),
        pytest.raises(OSError, match="in use"),
    ):
        HeldPort("127.0.0.1", held.port)
