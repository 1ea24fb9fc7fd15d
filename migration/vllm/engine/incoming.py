"""Requests that began elsewhere, as the engine sees them, from arrival to first step.

An early claim waits here while its request still decodes at the source: its blocks are allocated at
once, KV is copied in as it arrives, and the tokens generated meanwhile are bound at commit. In
vLLM's terms it loads external KV (WAITING_FOR_REMOTE_KVS, v1/core/sched/scheduler.py). All methods
run on the engine's thread.
"""

from collections.abc import Callable, Mapping

from vllm.v1.request import Request

from migration.engine import RequestState
from migration.protocol.pacing import blocks_for
from migration.vllm import tags
from migration.vllm.engine.arriving import Arriving
from migration.vllm.engine.copies import Copies
from migration.vllm.engine.core import EngineCore
from migration.vllm.engine.register import Tracked
from migration.vllm.engine.staged import Shelf, Staged
from migration.vllm.tags import Resume


class Incoming:
    """`count` is called for everything out of the ordinary, with a word for the metrics."""

    def __init__(
        self,
        core: EngineCore,
        copies: Copies,
        shelf: Shelf,
        clock: Callable[[], float],
        hold_s: float,
        count: Callable[[str], None],
    ) -> None:
        self._core = core
        self._copies = copies
        self._shelf = shelf
        self._clock = clock
        self._hold_s = hold_s
        self._count = count
        self._arriving: dict[str, Arriving] = {}

    def __bool__(self) -> bool:
        return bool(self._arriving)

    def of(self, request: Request) -> Arriving | None:
        """Find a request on its way in."""
        return self._arriving.get(request.request_id)

    def begin(self, tracked: Tracked, resume: Resume) -> None:
        """Admit a resumed request: its tokens become outputs again, and are replayed at once.

        A request to be recomputed passes through here too: `matched` is where its grammar is ready.
        Of several claims of one migration the newest counts, but a final one before an early one.
        """
        self._extend(tracked.request, list(resume.output_token_ids))
        tracked.arriving = True
        arriving = self._arriving[tracked.request.request_id] = Arriving(
            tracked, resume.migration_id, resume.early, self._clock(), bound=not resume.early
        )
        rivals = self._rivals(arriving)
        if resume.early and any(not rival.early for rival in rivals):
            rivals = [arriving]
        for rival in rivals:  # what it has here goes to the prefix cache
            rival.over = rival.over or tags.REQUEUE

    def send_back(self, tracked: Tracked) -> None:
        """End a waiting request at the next step, so that it is started elsewhere."""
        tracked.arriving = True
        self._arriving[tracked.request.request_id] = Arriving(
            tracked, None, early=False, since_s=self._clock(), bound=True, over=tags.REQUEUE
        )

    def matched(self, request: Request, local_tokens: int) -> tuple[int | None, bool]:
        """Answer `get_num_new_matched_tokens`: how many tokens' KV comes from elsewhere.

        (None, False) means: ask again at the next step.
        """
        arriving = self._arriving[request.request_id]
        record = self._shelf.claim(arriving.migration_id)
        if arriving.over is None and record is not None and record.commit is not None:
            self._bind(arriving, record.commit)
        self._feed_grammar(arriving)
        unknown = arriving.early and not arriving.bound and record is None
        if arriving.over is not None or unknown or self._rivals(arriving):
            return None, False  # `plan` ends it or its rivals, or it waits for a reservation
        arriving.first_block = local_tokens // self._core.block_tokens
        tokens = self._loadable(arriving, record)
        if tokens > local_tokens:
            return tokens - local_tokens, True
        if not arriving.bound:
            return None, False  # all of it is cached here: nothing to load, but it must not start
        if not local_tokens and arriving.migration_id is not None:
            self._count("recomputed")
        self._enter(arriving)
        return 0, False

    def _loadable(self, arriving: Arriving, record: Staged | None) -> int:
        """Count the tokens whose KV is here or, for a request still to be bound, will be."""
        tokens, block_tokens = arriving.request.num_tokens - 1, self._core.block_tokens
        if not arriving.bound:
            return tokens
        if record is None:
            return 0
        if record.commit is not None:
            tokens = min(tokens, record.commit.kv_tokens)
        return min(tokens, record.until(arriving.first_block) * block_tokens)

    def allocated(self, request: Request, external_tokens: int) -> None:
        """Note that a request has its blocks and waits for their KV."""
        arriving = self._arriving.get(request.request_id)
        if arriving is not None and external_tokens > 0:
            arriving.allocated = True

    def plan(self, scheduled: Mapping[str, int]) -> tuple[str, ...]:
        """Advance every request; return those whose KV is complete once all copies are done."""
        received: list[str] = []
        for arriving in list(self._arriving.values()):
            record = self._shelf.claim(arriving.migration_id)
            self._look_after(arriving, record)
            if arriving.over is not None and not arriving.ended:
                if arriving.request.request_id in scheduled:
                    self._enter(arriving)  # it was to be sent back, but has just begun
                    continue
                self._core.end(arriving.request, arriving.over)
            if arriving.received or not arriving.allocated:
                continue
            if arriving.ended:
                complete = not arriving.in_flight
            else:
                complete = self._put_in_place(arriving, record)
            if complete:
                arriving.received = True
                received.append(arriving.request.request_id)
        return tuple(received)

    def results(self, received: set[str]) -> None:
        """Note the requests whose KV vLLM now knows to be complete (or given up)."""
        for name in received:
            arriving = self._arriving.get(name)
            if arriving is None:
                continue
            if arriving.ended:
                self._salvage(arriving)
                self._leave(arriving)
            else:
                self._enter(arriving)

    def finished(self, request: Request) -> None:
        """Note that a request ended; one that has blocks is released when no copy needs them."""
        arriving = self._arriving.get(request.request_id)
        if arriving is None:
            return
        arriving.ended = True
        arriving.over = arriving.over or "finished"
        if not arriving.allocated:
            self._leave(arriving)

    # --- within ---

    def _look_after(self, arriving: Arriving, record: Staged | None) -> None:
        """Bind the tokens of a commit; give up a request whose KV will not come any more."""
        if arriving.over is not None:
            return
        if record is not None and record.commit is not None:
            if arriving.allocated:
                self._bind(arriving, record.commit)
            return
        if arriving.bound:
            return
        touched_s = max(arriving.since_s, record.touched_s if record else 0.0)
        lost = record is not None and record.over is not None
        if lost or self._clock() - touched_s > self._hold_s:
            self._count("given_up")
            arriving.over = tags.REQUEUE

    def _rivals(self, arriving: Arriving) -> list[Arriving]:
        """List the other claims of the same migration."""
        return [
            other
            for other in self._arriving.values()
            if other is not arriving
            and other.migration_id is not None
            and other.migration_id == arriving.migration_id
        ]

    def _bind(self, arriving: Arriving, commit: RequestState) -> None:
        """Make the tokens the source generated meanwhile outputs of the request; once."""
        if arriving.committed or arriving.received:
            return
        request = arriving.request
        ours, theirs = list(request.output_token_ids), list(commit.output_token_ids)
        same_prompt = list(request.prompt_token_ids or ()) == list(commit.prompt_token_ids)
        if not same_prompt or theirs[: len(ours)] != ours:
            self._count("mismatched")
            arriving.over, arriving.foreign = tags.REQUEUE, True
            return
        arriving.committed = arriving.bound = True
        tail = theirs[len(ours) :]
        self._extend(request, tail)
        if arriving.allocated:
            self._feed_grammar(arriving)
            self._aim_for(arriving, min(commit.kv_tokens, request.num_tokens - 1))

    def _aim_for(self, arriving: Arriving, tokens: int) -> None:
        """Make a request that has blocks start from the KV of so many tokens, and compute the rest.

        Blocks found in the prefix cache are in place whatever has arrived.
        """
        request = arriving.request
        tokens = max(tokens, arriving.first_block * self._core.block_tokens)
        missing = tokens - request.num_computed_tokens
        if missing <= 0 or self._core.grow(request, missing):
            self._core.start_from(request, tokens)

    def _extend(self, request: Request, token_ids: list[int]) -> None:
        if not token_ids:
            return
        self._core.append(request, token_ids)
        tags.put_tokens(request.kv_transfer_params, list(request.output_token_ids))
        self._core.replay(request, token_ids, step_by_step=request.request_id.startswith("chat"))

    def _feed_grammar(self, arriving: Arriving) -> None:
        """Advance the grammar over outputs it has not seen.

        It is compiled when vLLM first asks for a request's KV, not before.
        """
        outputs = list(arriving.request.output_token_ids)
        fresh, arriving.grammar_fed = outputs[arriving.grammar_fed :], len(outputs)
        if not self._core.feed_grammar(arriving.request, fresh):
            self._count("grammar_refused")
            arriving.over = arriving.over or tags.REQUEUE

    def _put_in_place(self, arriving: Arriving, record: Staged | None) -> bool:
        """Order copies of the KV that arrived; True when, after them, all KV is in place."""
        request, block_tokens = arriving.request, self._core.block_tokens
        block_ids = self._core.block_ids(request)
        until = len(block_ids)
        if arriving.bound:
            until = min(until, blocks_for(request.num_computed_tokens, block_tokens))
        taken = self._shelf.take(record, arriving.first_block, until) if record else {}
        if taken:
            arriving.in_flight.update(taken)
            self._copies.add(
                [block_ids[block] for block in taken],
                list(taken.values()),
                lambda: self._copied(arriving, taken),
                gather=False,
                urgent=arriving.bound,
            )
        if not arriving.bound:
            return False
        gap = arriving.first_gap()
        if gap < until:  # a rival took it: it will not come again
            self._count("incomplete")
            if not gap and arriving.in_flight:
                return False
            self._core.start_from(request, gap * block_tokens)
        return True

    def _copied(self, arriving: Arriving, taken: dict[int, int]) -> None:
        arriving.in_flight.difference_update(taken)
        arriving.in_place.update(taken)
        self._shelf.give_back(taken)

    def _salvage(self, arriving: Arriving) -> None:
        """Leave KV that arrived for a request which does not continue to the prefix cache."""
        block = arriving.first_gap()
        tokens = min(block * self._core.block_tokens, arriving.request.num_tokens - 1)
        if block > arriving.first_block and not arriving.foreign:
            self._core.cache(arriving.request, tokens)
            self._count("salvaged")

    def _enter(self, arriving: Arriving) -> None:
        """The request is an ordinary one from here on."""
        arriving.tracked.arriving = False
        arriving.entered = True
        self._leave(arriving)

    def _leave(self, arriving: Arriving) -> None:
        rivals = self._rivals(arriving)
        del self._arriving[arriving.request.request_id]
        if arriving.migration_id is None or rivals:
            return
        if arriving.entered or arriving.foreign:
            self._shelf.forget(arriving.migration_id)
        else:
            self._shelf.let_go(arriving.migration_id)
