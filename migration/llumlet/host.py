"""What both roles of a llumlet share: its engine, its settings, and where its effects gather."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from migration.config import MigrationConfig
from migration.engine import EngineHooks
from migration.llumlet.effects import Effect
from migration.protocol.pacing import StepTime
from policies.types import InstanceId


@dataclass(slots=True)
class Host:
    """An instance as its llumlet knows it. `clock` gives wall seconds from any origin."""

    instance_id: InstanceId
    hooks: EngineHooks
    config: MigrationConfig
    clock: Callable[[], float]
    effects: list[Effect] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    outcomes_out: Counter[str] = field(default_factory=Counter)
    outcomes_in: Counter[str] = field(default_factory=Counter)
    step: StepTime = field(default_factory=StepTime)
    draining: bool = False
