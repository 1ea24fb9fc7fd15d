"""One of each message, order and piece of news, for tests of codecs and tables."""

from migration.engine import RequestState
from migration.layout import Layout
from migration.llumlet.fleet_messages import (
    Drain,
    EventKind,
    MigrateOut,
    MigrationEvent,
    News,
    Order,
    Recall,
    Recalled,
    Recollection,
    Report,
    StepReport,
    Subscribe,
    SubscribeSteps,
)
from migration.protocol.messages import (
    Abort,
    Blocks,
    Commit,
    Committed,
    Message,
    Query,
    Refused,
    Reserve,
    Reserved,
    StageAck,
    StageDone,
)
from migration.protocol.peer import Peer
from policies.types import InstanceId, InstanceLoad, MigrateReason, MigrationId, RequestId

M, R = MigrationId("m"), RequestId("r")
A, B = InstanceId("A"), InstanceId("B")
LAYOUT = Layout("fake", "fake", "u8", 2, 16)

STATE = RequestState(
    R, 1, (1, 2, 3), (4, 4_000_000_000), 4, {"stop": ["x"], "top_p": 0.5, "n": None}
)

MESSAGES: tuple[Message, ...] = (
    Reserve(M, 1, R, A, B, 0, 3, LAYOUT),
    Reserved(M, 1, 0),
    Refused(M, 1, "no memory"),
    Blocks(M, 1, 0, 0, 3, 0xFFFFFFFF),
    StageDone(M, 1, 0, 3),
    StageAck(M, 1, 0),
    Commit(M, 1, 3, STATE),
    Committed(M, 1),
    Abort(M, 1, "why not"),
    Query(M, 1),
)

LOAD = InstanceLoad(A, 1000, 100, 10, 20, (1, 2), (3, 0), 16, 5, True, 1.5, 2, 3)
ORDERS: tuple[Order | News, ...] = (
    Subscribe(0.1),
    SubscribeSteps(0.1),
    MigrateOut(M, Peer(B, "127.0.0.1", 9), None, 1 << 40, MigrateReason.REBALANCE),
    Drain(True),
    Recall(1, R, "an owner"),
    Recalled(1, Recollection.CUT, (4, 4_000_000_000)),
    Report(LOAD, (R,)),
    StepReport(LOAD, (R,), 7),
    MigrationEvent(
        EventKind.ABORTED,
        *(M, "r", A, B, MigrateReason.DRAIN, 2, 64, 4096, 0.01, 0.2),
        detail="commit never answered",
        unresolved=True,
    ),
)
