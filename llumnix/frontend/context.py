"""The context shared by all requests being served."""

import time
from dataclasses import dataclass, field

from llumnix.frontend.bodies.intake import Intake
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.http.upstream import Upstream
from llumnix.frontend.patience import Patience
from llumnix.frontend.pump.pump import Pump
from llumnix.frontend.reconnect.kept import KeptStreams
from llumnix.frontend.request.request import Classes
from llumnix.frontend.seam import Queue, ServedFleet
from llumnix.metrics.tally import Tally


@dataclass(slots=True, eq=False)
class ServingContext:
    """The fleet, the queue in front of it, and the connections to its instances.

    `pump` is None where streams are passed on in Python. `config` may be replaced while serving; a
    request keeps what it began with.
    """

    config: FrontendConfig
    fleet: ServedFleet
    queue: Queue
    upstream: Upstream
    classes: Classes
    intake: Intake
    patience: Patience = field(default_factory=Patience)
    pump: Pump | None = None
    kept: KeptStreams = field(default_factory=lambda: KeptStreams(time.monotonic))

    @property
    def tally(self) -> Tally:
        """Return the tally that counts everything."""
        return self.fleet.tally

    def fleet_seconds(self, wall_s: float) -> float:
        """Convert wall seconds to fleet seconds."""
        return wall_s * self.fleet.clock.speed
