"""Long random lives of two instances: many requests, migrations both ways, fault after fault.

Hypothesis chooses what happens next; `World` holds INV-1…4 at every step, and when it is over
everything must come to rest within a bounded number of steps with nothing lost or leaked (INV-5
and INV-6).
"""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from migration.config import MigrationConfig
from tests.migration.moves import FAULTS, faults, moves, perform
from tests.migration.protocol.explorer import run_to_rest
from tests.migration.protocol.world import World

CONFIG = MigrationConfig(
    max_stages=3, slack_blocks=1, query_attempts=2, max_concurrent_in=2, max_concurrent_out=2
)
MAX_REQUESTS = 4
MAX_MIGRATIONS = 6
MAX_FAULTS = 6

picks = st.integers(0, 1 << 16)
places = st.sampled_from("AB")


class ProtocolMachine(RuleBasedStateMachine):
    """Source, destination, engines, network and frontend, driven at random."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(n_blocks=24, frame_blocks=2, config=CONFIG)
        self.requests = 0
        self.migrations = 0
        self.faults = 0

    @precondition(lambda self: self.requests < MAX_REQUESTS)
    @rule(place=places, prompt_tokens=st.integers(1, 7), max_tokens=st.integers(1, 16))
    def request(self, place: str, prompt_tokens: int, max_tokens: int) -> None:
        """A client sends a request."""
        if place in self.world.sites:
            self.requests += 1
            self.world.request(place, f"r{self.requests}", prompt_tokens, max_tokens)

    @precondition(lambda self: self.requests and self.migrations < MAX_MIGRATIONS)
    @rule(place=places)
    def migrate(self, place: str) -> None:
        """The fleet orders an instance to move a request to the other, dead or alive."""
        if place in self.world.sites:
            self.migrations += 1
            self.world.migrate(f"m{self.migrations}", None, place, "B" if place == "A" else "A")

    @rule(pick=picks, n=st.integers(1, 16))
    def go_on(self, pick: int, n: int) -> None:
        """Ordinary things happen, in any order; engines step less often than the network moves."""
        order = random.Random(pick)
        for _ in range(n):
            options = list(moves(self.world))
            hasty = [move for move in options if move.kind != "step"]
            if not options:
                return
            perform(self.world, order.choice(hasty if hasty and order.random() < 0.8 else options))

    @precondition(lambda self: self.faults < MAX_FAULTS)
    @rule(pick=picks, kind=st.sampled_from(FAULTS))
    def fault(self, pick: int, kind: str) -> None:
        """Something goes wrong."""
        options = list(faults(self.world, (kind,)))
        if options:
            self.faults += 1
            perform(self.world, options[pick % len(options)])

    @precondition(lambda self: self.migrations)
    @rule(place=places, on=st.booleans())
    def drain(self, place: str, on: bool) -> None:
        """The fleet drains an instance, or changes its mind."""
        if place in self.world.sites:
            self.world.sites[place].llumlet.drain(on)  # type: ignore[index]
            self.world.pump()

    @invariant()
    def one_place_and_every_block_once(self) -> None:
        """INV-1 and INV-3, at every step."""
        self.world.check()

    def teardown(self) -> None:
        """INV-6: whatever happened, it comes to rest."""
        for site in self.world.sites.values():
            site.llumlet.drain(False)
        run_to_rest(self.world)


ProtocolMachine.TestCase.settings = settings(
    max_examples=400, stateful_step_count=40, deadline=None
)
TestProtocol = ProtocolMachine.TestCase
