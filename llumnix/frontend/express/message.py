"""An express request as it is sent to an instance: the client's lines, ours, and the body."""

from llumnix.frontend.express.head import PlainHead
from llumnix.frontend.moves.resume_body import replay_body
from llumnix.frontend.request.headers import CLASS, REQUEST_ID
from llumnix.frontend.request.request import ClientRequest
from llumnix.instances.instance import Instance
from policies.types import RequestId


def message(
    head: PlainHead,
    request: ClientRequest,
    request_id: RequestId,
    target: Instance,
    secret: bytes,
) -> bytes:
    """Return a request's head and body, with what the plugin there must know."""
    body = replay_body(request, request_id, target, secret, None, None)
    endpoint = target.endpoint
    address = endpoint.address
    begin = f"POST {address.path}{request.path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
    own = endpoint.headers({REQUEST_ID: request_id, CLASS: request.class_name})
    ours = "".join(f"{name}: {value}\r\n" for name, value in own.items())
    onward = head.unsigned if endpoint.key else head.onward
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    return b"".join((begin.encode(), onward, ours.encode(), length, body))
