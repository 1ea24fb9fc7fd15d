"""Instances as they are told to frontends: how to send requests there, and their state."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llumnix.instances.endpoints.address import Address
from llumnix.instances.endpoints.endpoint import Endpoint, Secret
from llumnix.instances.endpoints.tls import TlsSettings, client_context
from llumnix.instances.instance import Identity, Instance, InstanceKind, MigrationOrder
from policies.types import InstanceId, InstanceLoad, RequestId

Record = Mapping[str, Any]


def fingerprint(instance: Instance) -> tuple[object, ...]:
    """Return what differs if, and only if, an instance's record would."""
    return (
        instance.id,
        instance.endpoint,
        instance.link is not None,
        instance.load is not None,
        instance.draining,
        instance.fitness.hung,
        instance.identity,
        instance.models,
    )


def record(instance: Instance) -> Record:
    """Encode an instance; its URL tells it from others. Holds our API key for it."""
    endpoint, identity = instance.endpoint, instance.identity
    return {
        "url": endpoint.url,
        "id": instance.id,
        "key": endpoint.key.text,
        "tls": None if endpoint.tls is None else asdict(endpoint.tls.settings),
        "server_name": endpoint.server_name,
        "linked": instance.link is not None,
        "reported": instance.load is not None,
        "draining": instance.draining,
        "hung": instance.fitness.hung,
        "identity": None if identity is None else _identity(identity),
        "models": [dict(each) for each in instance.models],
    }


def endpoint_of(told: Record) -> Endpoint:
    """Decode how to reach an instance; blocks for tens of milliseconds for new TLS settings."""
    tls = told["tls"]
    context = None
    if tls is not None:
        stamps = tuple((int(time), int(size)) for time, size in tls["stamps"])
        context = client_context(TlsSettings(**{**tls, "stamps": stamps}))
    return Endpoint(Address.parse(told["url"]), Secret(told["key"]), context, told["server_name"])


def update(instance: Instance, told: Record) -> None:
    """Bring an instance in line with its record."""
    instance.id = InstanceId(told["id"])
    if instance.identity is None or _identity(instance.identity) != told["identity"]:
        identity = told["identity"]
        instance.identity = None if identity is None else _identity_of(identity)
    instance.know_models(told["models"])
    instance.fitness.hung = told["hung"]
    instance.draining = told["draining"]
    if told["linked"]:
        instance.seen = True
        instance.link = instance.link or _FAR_LINK
        instance.load = _load(instance) if told["reported"] else None
        instance.fitness.dead = False
    else:
        instance.lose()


class _FarLink:
    """A link that another process has: orders are given there."""

    async def lost(self) -> str:
        """See InstanceLink."""
        raise NotImplementedError

    def give_up(self, reason: str) -> None:
        """See InstanceLink."""
        del reason

    async def migrate_out(self, move: MigrationOrder) -> None:
        """See InstanceLink."""
        raise NotImplementedError

    async def drain(self, on: bool) -> None:
        """See InstanceLink."""
        raise NotImplementedError

    async def recall(self, request_id: RequestId, owner: str, timeout_s: float) -> None:
        """See InstanceLink."""
        raise NotImplementedError

    async def close(self) -> None:
        """See InstanceLink."""


_FAR_LINK = _FarLink()


def _identity(identity: Identity) -> dict[str, Any]:
    plain = asdict(identity)
    return {**plain, "models": [], "kind": str(identity.kind)}


def _identity_of(told: Mapping[str, Any]) -> Identity:
    kind, name = InstanceKind(told["kind"]), InstanceId(told["instance_id"])
    return Identity(**{**told, "models": (), "kind": kind, "instance_id": name})


def _load(instance: Instance) -> InstanceLoad:
    """Return a load that says only that there is one: decisions are taken where it is known."""
    return InstanceLoad(instance.id, 0, 0, 0, 0, (), (), terminating=instance.draining)
