"""Where the payload of one frame of blocks is received."""

from dataclasses import dataclass

from migration.protocol.messages import Blocks


@dataclass(slots=True, eq=False)
class Landing:
    """A frame's payload on its way in: while `open`, its place is in reserved blocks.

    Closed at once when the reservation is freed: from then on the blocks may belong to another
    request, and the rest of the payload must be received elsewhere and discarded.
    """

    blocks: Blocks
    open: bool
