"""Copy jobs handed to the workers, until every rank has done them. Engine thread only."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

from migration.vllm.step_orders import CopyJob


class Copies:
    """Numbers jobs, hands them out with the next step, and calls back when they are done."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._numbers = count()
        self._new: list[CopyJob] = []
        self._done: dict[int, Callable[[], None]] = {}
        self._counts: Counter[int] = Counter()

    @property
    def pending(self) -> bool:
        """Whether any job is not done yet."""
        return bool(self._done)

    def add(
        self,
        block_ids: Sequence[int],
        slots: Sequence[int],
        done: Callable[[], None],
        *,
        gather: bool,
        urgent: bool = False,
    ) -> None:
        """Order a copy; `done` is called on the engine's thread."""
        job = CopyJob(next(self._numbers), gather, tuple(block_ids), tuple(slots), urgent)
        self._new.append(job)
        self._done[job.job_id] = done

    def take(self) -> tuple[CopyJob, ...]:
        """Return the jobs that are new since the last step."""
        jobs, self._new = tuple(self._new), []
        return jobs

    def completed(self, done: Counter[int]) -> None:
        """Note jobs done by so many ranks each."""
        self._counts.update(done)
        for job_id in done:
            if self._counts[job_id] >= self._ranks:
                del self._counts[job_id]
                call = self._done.pop(job_id, None)
                if call is not None:
                    call()
