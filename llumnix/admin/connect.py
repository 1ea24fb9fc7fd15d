"""The flags by which a command finds a frontend's admin API, and the client made from them."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llumnix.admin.client import DEFAULT_URL, AdminClient
from llumnix.admin.credentials import URL_VARIABLE, Published, all_published, given_token
from llumnix.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Door:
    """Where the admin API is, and the token for it ("" sends none)."""

    url: str
    token: str = field(repr=False)


def add_frontend(parser: argparse.ArgumentParser) -> None:
    """Add the flags `url`, `token_file` and `ca_file`."""
    parser.add_argument(
        "--url",
        help=f"the frontend's admin API (default: {URL_VARIABLE}, else this user's running "
        f"frontend, else {DEFAULT_URL})",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        default="",
        help="file with the admin token (default: LLUMNIX_ADMIN_TOKEN, else what this user's "
        "running frontend published)",
    )
    parser.add_argument(
        "--ca-file", metavar="FILE", default="", help="CA certificates to check an https URL with"
    )
    parser.add_argument(
        "--cert-file",
        metavar="FILE",
        default="",
        help="certificate and key (PEM) for an admin port that asks for one",
    )


def admin_client(args: argparse.Namespace, timeout_s: float = 5.0) -> AdminClient:
    """Make a client of the frontend that the flags name; raises ConfigError."""
    door = find_door(args.url, args.token_file, os.environ, all_published())
    return AdminClient(
        door.url, timeout_s, token=door.token, ca_file=args.ca_file, cert_file=args.cert_file
    )


def admin_door_of(clients_url: str) -> Door:
    """Return the admin API of the frontend at a clients' URL: the same address unless known.

    Raises ConfigError for an unusable token.
    """
    ours = next((each for each in all_published() if each.answers_to(clients_url)), None)
    if ours is not None:
        return Door(ours.admin_url, given_token("") or ours.token)
    told = os.environ.get(URL_VARIABLE)
    # The token is for a frontend that was named as one, never for whatever is being measured.
    return Door(told, given_token("")) if told else Door(clients_url, "")


def find_door(
    url: str | None,
    token_file: str,
    environment: Mapping[str, str],
    published: Sequence[Published],
) -> Door:
    """Choose the address and the token; raises ConfigError if several frontends are meant.

    A published token is only ever sent to the address it was published with.
    """
    token = given_token(token_file, environment)
    wanted = url or environment.get(URL_VARIABLE, "")
    if wanted:
        ours = next((each for each in published if each.answers_to(wanted)), None)
        if ours is None:
            return Door(wanted, token)
        return Door(ours.admin_url, token or ours.token)
    usual = [each for each in published if each.answers_to(DEFAULT_URL)]
    candidates = usual or list(published)
    if len(candidates) > 1:
        known = ", ".join(each.admin_url for each in candidates)
        raise ConfigError(f"several frontends are running; choose one with --url: {known}")
    if not candidates:
        return Door(DEFAULT_URL, token)
    return Door(candidates[0].admin_url, token or candidates[0].token)
