"""The plugin's settings: `kv_connector_extra_config` of vLLM's `--kv-transfer-config`."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migration.config import MigrationConfig

# vLLM's queue between an engine and its workers misses a wake-up now and then and looks again after
# 5 s (shm_broadcast.py): a deadline that must survive this has to be longer.
PATIENCE_S = 8.0
MIGRATION = MigrationConfig(stage_timeout_s=PATIENCE_S, detach_timeout_s=PATIENCE_S)

SECRET_VARIABLE = "LLUMNIX_SECRET"  # noqa: S105 - the name of a variable, not a secret


class SettingsError(ValueError):
    """A setting is wrong; the message says which one, and what is allowed."""


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """How this server takes part in migration. Raises SettingsError for a value out of range.

    `migration` holds settings of the llumlet itself (`migration.config.MigrationConfig`).
    """

    instance_id: str = field(
        default="", metadata={"help": "name of the instance in the fleet", "default": "its address"}
    )
    control_host: str = field(
        default="127.0.0.1",
        metadata={
            "help": "address the control port listens on; 0.0.0.0 if the fleet spans hosts",
            "metavar": "HOST",
        },
    )
    control_port: int = field(
        default=0, metadata={"help": "control port; 0 picks a free one", "metavar": "PORT"}
    )
    advertise_host: str = field(
        default="",
        metadata={
            "help": "address announced to the fleet",
            "metavar": "HOST",
            "default": "the control host",
        },
    )
    advertise_port: int = field(
        default=0,
        metadata={
            "help": "port announced to the fleet, if it is mapped; 0 for the control port",
            "metavar": "PORT",
        },
    )
    secret_file: str = field(
        default="",
        metadata={
            "help": "file that holds the fleet's shared secret",
            "metavar": "FILE",
            "default": f"${SECRET_VARIABLE}",
        },
    )
    staging_bytes: int = field(
        default=256 << 20,
        metadata={
            "help": "host memory per rank that KV is staged in: half out, half in",
            "unit": "bytes",
        },
    )
    staging_dir: str = field(
        default="",
        metadata={
            "help": "directory of the file behind that memory",
            "metavar": "DIR",
            "default": "/dev/shm",  # noqa: S108 - said, not used
        },
    )
    copy_share: float = field(
        default=0.1,
        metadata={
            "help": "largest share by which copying KV may lengthen an engine step",
            "metavar": "SHARE",
        },
    )
    hold_s: float = field(
        default=PATIENCE_S,
        metadata={
            "help": "how long an arriving request waits for KV or a commit without progress",
            "unit": "s",
        },
    )
    allow_untested_vllm: bool = field(
        default=False,
        metadata={"help": "start even with a vLLM version the plugin was not tested with"},
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
    """Read `kv_connector_extra_config`. Raises SettingsError, also for an unknown key."""
    values = dict(extra)
    nested = values.pop("migration", {})
    try:
        waits = dataclasses.asdict(MIGRATION) | dict(nested)
        migration = _build(MigrationConfig, waits, "migration.")
        return _build(PluginSettings, {**values, "migration": migration}, "")
    except (TypeError, ValueError) as error:
        raise SettingsError(f"kv_connector_extra_config: {error}") from error


def read_secret(settings: PluginSettings) -> bytes:
    """Return the fleet's secret. Raises SettingsError if there is none."""
    if settings.secret_file:
        try:
            secret = Path(settings.secret_file).read_bytes().strip()
        except OSError as error:
            raise SettingsError(f"cannot read secret_file: {error}") from error
    else:
        secret = os.environb.get(SECRET_VARIABLE.encode(), b"").strip()
    if not secret:
        raise SettingsError(
            f"no secret: set {SECRET_VARIABLE} (the same for the frontend and all servers) "
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
