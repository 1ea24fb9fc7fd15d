"""One line in the log for each request that has ended: how, where, how fast.

Nothing of what a client says is logged but the request's id, its model and its path without the
query: no prompt, no answer, no key, no header.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from aiohttp import web

from llumnix.fleet.account import Account

log = logging.getLogger("llumnix.requests")

_ACCOUNT: ContextVar[Account] = ContextVar("account")
_LONGEST_NAME = 200
OWN_PATHS = ("/health", "/ready", "/metrics", "/llumnix/")
"""What probes, scrapers and operators ask: answered to the end, and logged for debugging only."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def own_account() -> Account:
    """Return the account of the request that this task serves, to be filled in."""
    return _ACCOUNT.get(None) or Account()


@web.middleware
async def log_requests(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve a request and log its end, however it ends."""
    began_at = time.monotonic()
    account = Account()
    _ACCOUNT.set(account)  # each request has a task, and so a context, of its own
    status = 0
    try:
        response = await handler(request)
        status = response.status
    except web.HTTPException as refused:
        status = refused.status
        raise
    except (asyncio.CancelledError, ConnectionError):
        account.outcome = account.outcome or ("failed" if account.cut else "cancelled")
        raise
    except Exception as error:
        status = 500
        account.cause = f"internal: {type(error).__name__}"
        raise
    finally:
        write_line(request.method, request.path, account, status, time.monotonic() - began_at)
    return response


def outcome(account: Account, status: int) -> str:
    """Return how a request ended, for those that are no completions and were not judged yet."""
    if account.outcome:
        return account.outcome
    if status >= 500:
        return "failed"
    return "rejected" if status >= 400 else "finished"


def level(ended: str, status: int, path: str) -> int:
    """Return how loud the line is: what we failed to do is heard at the default level."""
    if ended == "failed" or (ended == "rejected" and status >= 500):
        own = path.startswith(OWN_PATHS)  # a probe that asks every second is told no
        return logging.DEBUG if own and status == 503 else logging.WARNING
    return logging.DEBUG if path.startswith(OWN_PATHS) else logging.INFO


def fields(
    account: Account, *, method: str, path: str, status: int, spent_s: float
) -> dict[str, object]:
    """Return the fields of a request's line; those that do not apply to it are left out."""
    told: dict[str, object] = {
        "id": account.request_id,
        "tenant": account.tenant,
        "class": account.class_name,
        "model": account.model[:_LONGEST_NAME],
        "method": method,
        "path": path[:_LONGEST_NAME],
        "status": status,
        "instances": account.instances,
        "moves": account.moves,
        "prompt_tokens": account.prompt_tokens,
        "output_tokens": account.output_tokens,
        "queue_wait_s": account.queue_wait_s,
        "ttft_s": account.ttft_s,
        "tpot_s": account.tpot_s,
        "cause": account.cause,
    }
    completion = bool(account.class_name)
    kept = {
        name: value
        for name, value in told.items()
        if value not in ("", None, []) and (completion or value != 0 or name == "status")
    }
    return {**kept, "spent_s": spent_s}


def write_line(method: str, path: str, account: Account, status: int, spent_s: float) -> None:
    """Write the line of a request that has ended, if the log's level asks for it."""
    ended = outcome(account, status)
    loud = level(ended, status, path)
    if not log.isEnabledFor(loud):
        return
    told = fields(account, method=method, path=path, status=status, spent_s=spent_s)
    log.log(loud, f"request_{ended}", extra={"fields": told})
