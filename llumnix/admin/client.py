"""A small blocking client of a frontend's admin API (`/llumnix/…`), for commands and the live view.

It speaks to the one address it was given: no proxies, no redirects, every wait bounded.
"""

import http.client
import json
from typing import Any, Final, NoReturn
from urllib.parse import quote, urlsplit

from llumnix.errors import ConfigError, LlumnixError, Unreachable

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_MAX_ANSWER_BYTES: Final = 64 << 20


class NotAFrontendError(LlumnixError):
    """Something answers there, but it is no Llumnix frontend."""


class RefusedError(LlumnixError):
    """The frontend understood and said no; the text is its own."""


class AdminClient:
    """Asks one frontend. `timeout_s` (wall seconds) bounds connecting and each read.

    Every method raises Unreachable when nothing answers, NotAFrontendError when something else
    does, and RefusedError when the frontend says no. Raises ConfigError for an unusable URL.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout_s: float = 5.0) -> None:
        # A host and port without a scheme is what people type.
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError(f"{url!r} is no URL of a frontend; one looks like {DEFAULT_URL}")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._host, self._port = parts.hostname, port
        self._secure = parts.scheme == "https"
        self._base_path = parts.path.rstrip("/")
        self._timeout_s = timeout_s

    def fleet(self) -> dict[str, Any]:
        """Return the fleet as it is now: instances, migrations under way, totals."""
        answer = self._ask("GET", "/llumnix/fleet")
        if not isinstance(answer.get("instances"), list):
            self._not_a_frontend("its answer holds no instances")
        return answer

    def events(self, after: int = 0) -> tuple[int, list[dict[str, Any]]]:
        """Return where to go on from, and the events kept that are newer than number `after`."""
        answer = self._ask("GET", f"/llumnix/events?after={after}")
        return int(answer.get("next", after)), list(answer.get("events", ()))

    def migrate(
        self,
        request_id: str | None = None,
        source: str | None = None,
        destination: str | None = None,
    ) -> dict[str, Any]:
        """Order a migration and return it; what is left out, the fleet chooses."""
        wanted = {"request_id": request_id, "source": source, "destination": destination}
        given = {name: value for name, value in wanted.items() if value is not None}
        return self._ask("POST", "/llumnix/migrate", given)

    def drain(self, instance_id: str, *, on: bool = True) -> dict[str, Any]:
        """Start to empty an instance, or with `on` False let it take requests again."""
        return self._ask("POST", "/llumnix/drain", {"instance_id": instance_id, "on": on})

    def explain(self, request_id: str) -> dict[str, Any]:
        """Return the decisions taken for a request, and why."""
        return self._ask("GET", f"/llumnix/explain/{quote(request_id, safe='')}")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        status, text = self._exchange(method, path, body)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status >= 400:
            error = answer.get("error") if isinstance(answer, dict) else None
            if isinstance(error, dict) and "message" in error and path != "/llumnix/fleet":
                raise RefusedError(str(error["message"]))
            self._not_a_frontend(f"HTTP {status} for {path}")
        if not isinstance(answer, dict):
            self._not_a_frontend(f"its answer to {path} is no JSON object")
        return answer

    def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json"}
        if payload is not None:
            headers["Content-Type"] = "application/json"
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
                f"nothing answers at {self.url} ({_reason(error)}). Start a fleet with "
                "`llumnix serve --emulate 4`, or say with --url where yours is"
            ) from error
        finally:
            connection.close()

    def _not_a_frontend(self, what: str) -> NoReturn:
        raise NotAFrontendError(
            f"{self.url} answers, but not like a Llumnix frontend ({what}); use --url to say where "
            "yours is"
        )


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return (error.strerror or str(error)).lower()
