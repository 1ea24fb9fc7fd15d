"""Open the link that fits what a server is."""

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from llumnix.instances.condition.trouble import Cause, ContactFailed
from llumnix.instances.config import FleetConfig
from llumnix.instances.instance import (
    Identity,
    Instance,
    InstanceKind,
    InstanceLink,
    InstanceListener,
)
from llumnix.instances.plugged import PluggedLink
from llumnix.instances.table import InstanceTable
from llumnix.instances.untouched import UntouchedLink
from policies.types import InstanceId


@dataclass(frozen=True, slots=True)
class Links:
    """Opens links on behalf of a fleet; `now_s` is its clock.

    `local_count` counts the frontend's requests at an instance, `flowed_at_s` says when one of them
    last brought something. Requests of an unknown class count as `default_class`.
    """

    session: aiohttp.ClientSession
    instances: InstanceTable
    config: FleetConfig
    secret: bytes
    listener: InstanceListener
    now_s: Callable[[], float]
    local_count: Callable[[InstanceId], int]
    flowed_at_s: Callable[[InstanceId], float]
    default_class: int

    async def open(self, instance: Instance, identity: Identity) -> InstanceLink:
        """Link up with a server. Raises ContactFailed if it cannot be, or another is it already."""
        self._claim_name(instance, identity)
        if identity.kind is InstanceKind.UNTOUCHED:
            return UntouchedLink(
                instance,
                identity,
                self.session,
                self.config,
                self.listener,
                self.now_s,
                lambda: self.local_count(instance.id),
                self.default_class,
                wants_llumlet=bool(self.secret),
                flowed_at_s=lambda: self.flowed_at_s(instance.id),
            )
        link = PluggedLink(
            instance,
            identity,
            self.secret,
            self.config,
            self.listener,
            self.now_s,
            self.default_class,
            lambda: self.flowed_at_s(instance.id),
            lambda: self.local_count(instance.id),
        )
        await link.open()
        return link

    def _claim_name(self, instance: Instance, identity: Identity) -> None:
        other = self.instances.get(identity.instance_id)
        if other is None or other is instance:
            return
        if other.link is not None:
            what = f"{other.url} also calls itself {identity.instance_id}"
            raise ContactFailed(Cause.DUPLICATE, what)
        # Its name has moved, as a pod's does with it, to another address.
        other.id = InstanceId(other.endpoint.address.name)
