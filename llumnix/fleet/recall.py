"""Ask the instances what they remember of a request whose client has come back."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llumnix.instances.instance import Instance
from migration.llumlet.fleet_messages import Recalled, Recollection
from policies.types import InstanceId, RequestId


@dataclass(frozen=True, slots=True)
class Remembered:
    """The output of a request, as far as any instance knows it.

    `instance_id` is who knows it. `replays_whole`: an instance of its kind gives a complete output
    again as it was; a vLLM would draw the last token anew.
    """

    state: Recollection
    token_ids: tuple[int, ...] = ()
    instance_id: InstanceId | None = None
    replays_whole: bool = False


def to_plain(found: Remembered) -> list[Any]:
    """Encode it, for another process."""
    return [str(found.state), found.token_ids, found.instance_id, found.replays_whole]


def of_plain(told: Sequence[Any]) -> Remembered:
    """Decode it."""
    state, token_ids, instance_id, whole = told
    return Remembered(Recollection(state), tuple(token_ids), instance_id, bool(whole))


NOTHING = Remembered(Recollection.UNKNOWN)


async def recall(
    instances: Iterable[Instance], request_id: RequestId, owner: str, timeout_s: float
) -> Remembered:
    """Ask all instances; the longest output counts, and one that still runs before any."""

    async def ask(instance: Instance) -> tuple[Instance, Recalled | None]:
        link = instance.link
        told = await link.recall(request_id, owner, timeout_s) if link is not None else None
        return instance, told

    best = NOTHING
    for instance, told in await asyncio.gather(*map(ask, instances)):
        if told is None or told.state is Recollection.UNKNOWN:
            continue
        if told.state is Recollection.RUNNING:
            return Remembered(Recollection.RUNNING, (), instance.id)
        if best.instance_id is None or len(told.output_token_ids) > len(best.token_ids):
            whole = not instance.vllm
            best = Remembered(told.state, told.output_token_ids, instance.id, whole)
    return best
