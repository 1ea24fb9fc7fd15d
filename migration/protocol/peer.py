"""The other end: where an instance can be reached, and where a message came from."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Annotated

from migration.protocol import wire
from migration.protocol.messages import Instance

Sender = Hashable
"""Identifies the connection a message came in on; answers go back there."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The address of an instance's control port."""

    instance_id: Instance
    host: Annotated[str, wire.Text(256, least=1)]
    port: Annotated[int, wire.Whole(65535)]
