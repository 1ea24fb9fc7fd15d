"""What a frontend and its scheduler tell each other.

A message is a list: the number of its kind, then what is written beside the kind below. Times are
seconds of the machine's monotonic clock, `…_s` of the fleet those of the fleet's. Numbers are never
used again for something else; `VERSION` changes when an end of an older version would misread.
"""

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llumnix.fleet.placement import PlacementRequest
from llumnix.frontend.request.refusal import Refusal
from policies.types import DispatchRequest, InstanceId, RequestId

VERSION: Final = 1


class Kind(enum.IntEnum):
    """The kinds of messages."""

    # From a frontend.
    HELLO = 1
    """version, who (unique to the process), ids of the instances that are up as far as it knows,
    the last KEEPSAKE it was given or None"""
    ADOPT = 2
    """the requests it is serving: a list of what STATE and OPENED say together"""
    OPENED = 3
    """request, class, since when (fleet), why it cannot move"""
    PLACE = 4
    """number, and what `ask_of` reads"""
    LEAVE = 5
    """number of a PLACE whose client has left"""
    STATE = 6
    """request, state, instance, when it was sent there, since when it flows"""
    CLOSED = 7
    """request"""
    FORGET = 8
    """request: it is to be dispatched anew"""
    SUSPECT = 9
    """instance, reason"""
    HEALTH = 10
    """what to note (a method of the fleet's health), instance, request, further arguments"""
    CONDEMN = 11
    """digest of a body that took instances down"""
    CLAIMED = 12
    """request, migration"""
    FLOWED = 13
    """by instance, when a stream of it last brought something"""
    ABLE = 14
    """by request, the instances that it can be handed over to"""
    VISITED = 15
    """number of an ADMIT whose request is over, the tokens that it has used"""
    VISITING = 16
    """all visits under way: the number, hash of the key, its limits, what was set aside for it"""

    # From the scheduler.
    WELCOME = 32
    """version, what a frontend must know before all else: the fleet's time, this machine's"""
    TABLE = 33
    """instances that changed, each as a record; the URLs of those that left; whether it is all"""
    PLACED = 34
    """number, instance or None, refusal or None"""
    CUT = 35
    """request"""
    ORDERED = 36
    """by migration, its destination"""
    MIGRATING = 37
    """request, migration, source, destination"""
    STAYS = 38
    """request, migration"""
    CONDEMNED = 39
    """by digest of a body that was convicted, when"""
    MOVED = 40
    """by URL of an instance, when its engine was last seen to step"""
    KEEPSAKE = 41
    """figures to be given to the next scheduler, so that no total goes backwards"""

    # From either.
    ASK = 64
    """number, what, arguments"""
    ANSWER = 65
    """number, what there is to say"""


class Asked(enum.StrEnum):
    """What either end may ask the other."""

    # Of the scheduler.
    UNIQUE_ID = "unique_id"
    VERDICT = "verdict"
    MODELS = "models"
    ADMIT = "admit"
    RESERVE = "reserve"
    RECALL = "recall"
    # Of a frontend.
    HAND_OVER = "hand_over"
    FIGURES = "figures"
    TOKENS = "tokens"
    ABLE = "able"


def place(number: int, ask: PlacementRequest) -> list[Any]:
    """Encode the wish for an instance."""
    wanted = ask.request
    return [
        Kind.PLACE,
        number,
        wanted.request_id,
        wanted.class_index,
        wanted.prompt_tokens,
        wanted.arrived_at_s,
        wanted.model,
        list(ask.avoided),
        list(ask.barred),
        ask.plugged_only,
        ask.or_vllm,
    ]


def ask_of(told: Sequence[Any]) -> PlacementRequest:
    """Decode what follows the number of a PLACE."""
    request_id, class_index, tokens, arrived_at_s, model, avoided, barred, plugged, vllm = told
    return PlacementRequest(
        DispatchRequest(
            RequestId(request_id), int(class_index), int(tokens), float(arrived_at_s), model
        ),
        frozenset(InstanceId(each) for each in avoided),
        frozenset(InstanceId(each) for each in barred),
        plugged_only=bool(plugged),
        or_vllm=bool(vllm),
    )


def refusal_plain(refusal: Refusal) -> dict[str, Any]:
    """Encode a refusal."""
    return {
        "status": refusal.status,
        "message": refusal.message,
        "code": refusal.code,
        "param": refusal.param,
        "retry_after_s": refusal.retry_after_s,
    }


def refusal_of(told: Mapping[str, Any]) -> Refusal:
    """Decode a refusal."""
    return Refusal(**told)
