"""The plugin's settings: `kv_connector_extra_config` of vLLM's `--kv-transfer-config`."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migration.config import MigrationConfig

# vLLM's queue between an engine and its workers occasionally misses a wake-up and polls again after
# 5 s (shm_broadcast.py): a wait that must outlast this has to be longer.
PATIENCE_S = 8.0
MIGRATION = MigrationConfig(stage_timeout_s=PATIENCE_S, detach_timeout_s=PATIENCE_S)

SECRET_VARIABLE = "LLUMNIX_SECRET"  # noqa: S105 - the name of a variable, not a secret


class SettingsError(ValueError):
    """The settings are wrong; the message says which and what would be valid."""


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """How this server takes part in migration. Raises SettingsError for inconsistent settings.

    `migration` holds settings of the llumlet itself (`migration.config.MigrationConfig`).
    """

    instance_id: str = field(default="", metadata={"help": "name in the fleet; unset: the address"})
    control_host: str = field(
        default="127.0.0.1",
        metadata={"help": "address the control port listens on; 0.0.0.0 for a fleet of hosts"},
    )
    control_port: int = field(default=0, metadata={"help": "control port; 0 picks a free one"})
    advertise_host: str = field(
        default="", metadata={"help": "address the fleet is told; unset: control_host"}
    )
    advertise_port: int = field(
        default=0,
        metadata={"help": "port the fleet is told, where one is mapped; 0: the control port"},
    )
    secret_file: str = field(
        default="",
        metadata={"help": f"file with the fleet's shared secret; unset: {SECRET_VARIABLE}"},
    )
    staging_bytes: int = field(
        default=256 << 20,
        metadata={"help": "host memory KV passes through, half out, half in, each rank"},
    )
    staging_dir: str = field(
        default="", metadata={"help": "where that memory's file lies; unset: /dev/shm"}
    )
    copy_share: float = field(
        default=0.1,
        metadata={"help": "no step of the engine is lengthened by more than this share to copy KV"},
    )
    hold_s: float = field(
        default=PATIENCE_S,
        metadata={"help": "a request waits this long for KV and commit without a sign of life"},
    )
    allow_untested_vllm: bool = field(
        default=False, metadata={"help": "start on a vLLM this plugin was not tested with"}
    )
    migration: MigrationConfig = field(default=MIGRATION)

    def __post_init__(self) -> None:
        if not 0 < self.copy_share <= 1:
            raise SettingsError(f"copy_share must be within (0, 1], not {self.copy_share}")
        if self.staging_bytes <= 0 or self.hold_s <= 0:
            raise SettingsError("staging_bytes and hold_s must be positive")
        for name in ("control_port", "advertise_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise SettingsError(f"{name} must be a port, not {getattr(self, name)}")


def read_settings(extra: Mapping[str, Any]) -> PluginSettings:
    """Read `kv_connector_extra_config`; unknown keys are errors."""
    values = dict(extra)
    nested = values.pop("migration", {})
    try:
        waits = dataclasses.asdict(MIGRATION) | dict(nested)
        migration = _build(MigrationConfig, waits, "migration.")
        return _build(PluginSettings, {**values, "migration": migration}, "")
    except (TypeError, ValueError) as error:
        raise SettingsError(f"kv_connector_extra_config: {error}") from error


def read_secret(settings: PluginSettings) -> bytes:
    """Return the fleet's secret; raises SettingsError when there is none."""
    if settings.secret_file:
        try:
            secret = Path(settings.secret_file).read_bytes().strip()
        except OSError as error:
            raise SettingsError(f"secret_file cannot be read: {error}") from error
    else:
        secret = os.environb.get(SECRET_VARIABLE.encode(), b"").strip()
    if not secret:
        raise SettingsError(
            f"no secret: set {SECRET_VARIABLE} (the same for frontend and servers), "
            "or kv_connector_extra_config.secret_file"
        )
    return secret


def _build(cls: type[Any], values: dict[str, Any], prefix: str) -> Any:
    known = {item.name for item in dataclasses.fields(cls)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise SettingsError(
            f"unknown setting {prefix}{unknown[0]}; known: {', '.join(sorted(known))}"
        )
    return cls(**values)
