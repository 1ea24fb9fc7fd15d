"""Start a stream afresh behind an opening that the client already has.

An opening says nothing: the role, an empty text. The server that starts afresh sends its own, which
is dropped, and its chunks get the first one's `id` and `created`: the client sees one stream.
"""

from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.logprobs import KeptTokens
from llumnix.frontend.splicing.splice import Splicer
from llumnix.frontend.splicing.transcript import Transcript, openings, says_something


class Restart(Splicer):
    """Turns a whole stream into the rest of one of which the client has the opening.

    Feed it whole events until `caught_up`; from then on `relabel` alone is enough.
    """

    def __init__(self, had: Transcript) -> None:
        super().__init__(had, KeptTokens())

    def _one(self, event: bytes) -> bytes:
        chunk = sse.payload(event)
        if chunk is None or not chunk.get("choices"):
            return self.relabel(event)
        if not self._begun:
            self._begun = True
            self._learn_names(event)
        if says_something(event):
            self.caught_up = True
        elif openings(chunk) <= self._had.opened:
            return b""
        return self.relabel(event)
