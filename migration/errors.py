"""What can go wrong while moving a request, beyond expected refusals (those are values).

MigrationError
├── ProtocolError       bytes or messages a peer must never send; counted by `code`
│   └── AuthError       a peer that does not know the secret, or asks for an unknown role
├── InvalidTransition   our own engine or driver broke its contract; carries the whole story
└── LinkError           a connection broke, timed out or was closed
    └── CutOff          it was closed within a frame, not between two
"""


class MigrationError(Exception):
    """The root of this package's errors."""


class ProtocolError(MigrationError):
    """A peer sent what it must not; its connection is closed and `code` counted."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class AuthError(ProtocolError):
    """The handshake failed: wrong secret, unknown role, or no handshake at all."""


class InvalidTransition(MigrationError):  # noqa: N818 (a protocol term)
    """An event that cannot happen in this state happened; the message carries the whole story."""

    def __init__(self, state: object, event: object, story: object) -> None:
        super().__init__(f"{event!r} in state {state}; story: {story!r}")


class LinkError(MigrationError):
    """The connection to a peer broke; each of its users is told once."""


class CutOff(LinkError):  # noqa: N818 - what the peer did
    """The peer closed the connection when only part of the expected data had arrived."""
