"""A small blocking client of the admin API (`/llumnix/…`), for commands and the live view.

It connects only to the address it was given: no proxies, no redirects, every wait bounded.
"""

import http.client
import json
import ssl
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

from llumnix.admin.answer import Answer, SchemaError
from llumnix.admin.schema import (
    DrainStatus,
    FleetStatus,
    MemberStatus,
    MigrationStatus,
    News,
    RequestDecisions,
    RequestStatus,
    read_requests,
)
from llumnix.errors import ConfigError, LlumnixError, Unreachable

A = TypeVar("A", bound=Answer)

DEFAULT_URL: Final = "http://127.0.0.1:9011"
_MAX_ANSWER_BYTES: Final = 64 << 20


class NotAFrontendError(LlumnixError):
    """Something responds there, but it is not a Llumnix frontend."""


class RefusedError(LlumnixError):
    """The frontend refused; the message is its own."""


class AdminClient:
    """Queries one frontend. `timeout_s` (wall seconds) bounds connecting and each read.

    `token` is sent with every request unless it is empty; `ca_file` holds the certificates that an
    https address is checked with (default: the system's), `cert_file` a certificate and its key for
    a frontend that asks for one.

    Every method raises Unreachable if nothing responds, NotAFrontendError if something else does,
    and RefusedError if the frontend refuses. Raises ConfigError for an unusable URL or CA file.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        timeout_s: float = 5.0,
        *,
        token: str = "",
        ca_file: str = "",
        cert_file: str = "",
    ) -> None:
        # People type a host and port without a scheme.
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError(f"{url!r} is not the URL of a frontend, such as {DEFAULT_URL}")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._host, self._port = parts.hostname, port
        self._secure = parts.scheme == "https"
        self._base_path = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._token = token
        self._tls = _tls(ca_file, cert_file) if self._secure else None

    def fleet(self) -> FleetStatus:
        """Return the current state of the fleet: instances, migrations in progress, totals."""
        return self._read(FleetStatus, self._ask("GET", "/llumnix/fleet"))

    def requests(self) -> tuple[RequestStatus, ...]:
        """Return the requests being served."""
        try:
            return read_requests(self._ask("GET", "/llumnix/requests"))
        except SchemaError as error:
            self._not_a_frontend(f"malformed response: {error}")

    def events(self, after: int = 0) -> News:
        """Return the remembered events that are newer than number `after`."""
        return self._read(News, self._ask("GET", f"/llumnix/events?after={after}"))

    def migrate(
        self,
        request_id: str | None = None,
        source: str | None = None,
        destination: str | None = None,
    ) -> MigrationStatus:
        """Order a migration and return it; the fleet chooses what is left out."""
        wanted = {"request_id": request_id, "source": source, "destination": destination}
        given = {name: value for name, value in wanted.items() if value is not None}
        return self._read(MigrationStatus, self._ask("POST", "/llumnix/migrate", given))

    def drain(self, instance_id: str, *, on: bool = True) -> DrainStatus:
        """Start draining an instance, or with `on` False let it take requests again."""
        wanted = {"instance_id": instance_id, "on": on}
        return self._read(DrainStatus, self._ask("POST", "/llumnix/drain", wanted))

    def add(self, url: str) -> MemberStatus:
        """Make a server a member of the fleet."""
        return self._read(MemberStatus, self._ask("POST", "/llumnix/instances", {"url": url}))

    def remove(self, instance_id: str, *, now: bool = False) -> MemberStatus:
        """Remove an instance once it is empty; with `now` at once, its requests moving on."""
        path = f"/llumnix/instances/{quote(instance_id, safe='')}{'?now' if now else ''}"
        return self._read(MemberStatus, self._ask("DELETE", path, {}))

    def explain(self, request_id: str) -> RequestDecisions:
        """Return the decisions about a request, with reasons."""
        path = f"/llumnix/explain/{quote(request_id, safe='')}"
        return self._read(RequestDecisions, self._ask("GET", path))

    def _read(self, answer: type[A], plain: object) -> A:
        try:
            return answer.from_json(plain)
        except SchemaError as error:
            self._not_a_frontend(f"malformed response: {error}")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> object:
        status, text = self._exchange(method, path, body)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status >= 400:
            error = answer.get("error") if isinstance(answer, dict) else None
            said = str(error["message"]) if isinstance(error, dict) and "message" in error else ""
            if said and status in (401, 403):
                raise RefusedError(
                    f"{self.url}: {said}; give it with --token-file or LLUMNIX_ADMIN_TOKEN"
                )
            if said and path != "/llumnix/fleet":
                raise RefusedError(said)
            self._not_a_frontend(f"HTTP {status} for {path}")
        return answer

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        connection = self._connection()
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json"}
        if payload is not None:
            headers["Content-Type"] = "application/json"
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, self._base_path + path, body=payload, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(_MAX_ANSWER_BYTES)
        except http.client.HTTPException as error:
            raise NotAFrontendError(
                f"{self.url} does not speak HTTP ({type(error).__name__}); use --url to say where "
                "your frontend is"
            ) from error
        except OSError as error:
            raise Unreachable(
                f"nothing responds at {self.url} ({_reason(error)}). Start a fleet with "
                "`llumnix serve --emulate 4`, or say with --url where yours is"
            ) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=self._tls
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)

    def _not_a_frontend(self, what: str) -> NoReturn:
        raise NotAFrontendError(
            f"{self.url} responds, but not like the admin API of a Llumnix frontend ({what}); it "
            "has a port of its own (9011 unless --admin-port says otherwise): use --url to say "
            "where yours is"
        )


def _tls(ca_file: str, cert_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if cert_file:
            context.load_cert_chain(cert_file)
    except OSError as error:  # ssl.SSLError is one
        names = ", ".join(filter(None, (ca_file, cert_file)))
        raise ConfigError(f"cannot use the certificates in {names}: {error}") from error
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return (error.strerror or str(error)).lower()
