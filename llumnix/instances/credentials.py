"""Read what it takes to be let in by a server: its API key, certificates."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from llumnix.errors import ConfigError
from llumnix.instances.config import FleetConfig, InstanceSpec
from llumnix.instances.endpoints.address import Address
from llumnix.instances.endpoints.endpoint import NO_SECRET, Endpoint, Secret
from llumnix.instances.endpoints.tls import ClientContext, TlsSettings, client_context

KEY_VARIABLES = ("LLUMNIX_INSTANCE_API_KEY", "VLLM_API_KEY")
"""Environment variables that hold the fleet's API key, if no file does; the first that is set."""


def endpoint_of(
    spec: InstanceSpec, fleet: FleetConfig, environment: Mapping[str, str] = os.environ
) -> Endpoint:
    """Return the endpoint of a server; what its spec leaves out is as for the whole fleet.

    Blocks for tens of milliseconds where TLS settings are new. Raises ConfigError for a file that
    cannot be read, is empty, or is not what it should be; the message never holds what is in it.
    """
    address = Address.parse(spec.url)
    key = _key_of(spec, fleet, environment)
    if not address.secure:
        return Endpoint(address, key)
    return Endpoint(address, key, _context(_settings(spec, fleet)), spec.server_name)


def _key_of(spec: InstanceSpec, fleet: FleetConfig, environment: Mapping[str, str]) -> Secret:
    if spec.api_key_file:
        return _read_key(spec.api_key_file)
    if spec.api_key_env:
        if not environment.get(spec.api_key_env):
            raise ConfigError(f"{spec.url}: the environment has no {spec.api_key_env}")
        return _checked(environment[spec.api_key_env], spec.api_key_env)
    if fleet.instance_api_key_file:
        return _read_key(fleet.instance_api_key_file)
    name = next((name for name in KEY_VARIABLES if environment.get(name)), "")
    return _checked(environment[name], name) if name else NO_SECRET


def _read_key(path: str) -> Secret:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the API key in {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        # Not from the error: it holds what was read.
        raise ConfigError(f"{path} must hold an API key, as text") from None
    return _checked(text, path)


def _checked(text: str, where: str) -> Secret:
    key = text.strip()
    if not key:
        raise ConfigError(f"{where} is empty; it must hold an API key")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where} must hold one API key, without spaces or line breaks")
    return Secret(key)


def _settings(spec: InstanceSpec, fleet: FleetConfig) -> TlsSettings:
    own_certificate = bool(spec.cert_file)
    settings = TlsSettings(
        ca_file=spec.ca_file or fleet.instance_ca_file,
        cert_file=spec.cert_file or fleet.instance_cert_file,
        key_file=spec.key_file if own_certificate else fleet.instance_key_file,
        verify=fleet.instance_verify if spec.verify is None else spec.verify,
    )
    # A file that was replaced makes other settings: contexts are kept for as long as they are.
    return dataclasses.replace(settings, stamps=tuple(_stamp(path) for path in settings.files))


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    return status.st_mtime_ns, status.st_size


def _context(settings: TlsSettings) -> ClientContext:
    try:
        return client_context(settings)
    except OSError as error:  # an ssl.SSLError is one
        files = ", ".join(settings.files) or "the system's certificates"
        why = getattr(error, "reason", None) or error.strerror or error
        raise ConfigError(f"cannot use {files} for TLS with instances: {why}") from error
