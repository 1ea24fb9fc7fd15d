"""Reconstruct a server's steps, as far as the timestamps of its requests reveal them.

Schedulings and first tokens fall on the edges of steps that computed prompts. Between two such
edges the tokens computed are known, given the step's budget: the requests whose first token comes
at the end are finished, and the rest of the budget goes to the next ones, first come, first served.
All other time belongs to steps that only decode; their number is known for each request, since it
got one token in each.
"""

from dataclasses import dataclass

import numpy as np

from simulator.calibration.measured import Floats, Ints, Measured

# Edges closer together than this are the same one: clocks are read a little apart.
SAME_EDGE_S = 1e-3


@dataclass(frozen=True, slots=True)
class PromptSteps:
    """Stretches of steps that computed prompts; columns of one length, in order of time."""

    start_s: Floats
    end_s: Floats
    steps: Floats
    tokens: Floats
    squares: Floats

    def steps_until(self, times_s: Floats) -> Floats:
        """Count the steps that ended by each time; a stretch cut through counts in part."""
        return self._until(times_s, self.steps)

    def time_until(self, times_s: Floats) -> Floats:
        """Sum up the seconds these steps took by each time."""
        return self._until(times_s, self.end_s - self.start_s)

    def _until(self, times_s: Floats, amounts: Floats) -> Floats:
        if not len(self.steps):
            return np.zeros(len(times_s))
        index = np.searchsorted(self.end_s, times_s, side="right")
        before = np.concatenate([[0.0], np.cumsum(amounts)])
        inside = np.minimum(index, len(amounts) - 1)
        length = np.maximum(self.end_s[inside] - self.start_s[inside], 1e-12)
        part = np.clip((times_s - self.start_s[inside]) / length, 0.0, 1.0)
        part = np.where(index < len(amounts), part, 0.0)
        return np.asarray(before[index] + part * amounts[inside])


def started_ahead(measured: Measured, step_s: Floats) -> Floats:
    """When requests were first computed, by an engine that schedules one step ahead.

    That is at the next edge of a step after their scheduling. Where none shows, a step that only
    decodes was under way, and took `step_s` from there (given for each request).
    """
    seen = _merged(np.concatenate([measured.scheduled_s, measured.first_s, measured.last_s]))
    after = np.searchsorted(seen, measured.scheduled_s + SAME_EDGE_S)
    next_s = seen[np.minimum(after, len(seen) - 1)]
    shows = next_s < measured.first_s - SAME_EDGE_S
    # The longest step that is possible leaves some time for the prompt itself.
    most_s = measured.scheduled_s + 0.5 * (measured.first_s - measured.scheduled_s)
    step_end_s = np.minimum(measured.scheduled_s + step_s, most_s)
    decoding = _decoding(measured, measured.scheduled_s) > 0
    hidden_s = np.where(decoding, step_end_s, measured.scheduled_s)
    return np.where(shows, next_s, hidden_s)


def prompt_steps(measured: Measured, started_s: Floats, token_budget: int) -> PromptSteps:
    """Find the stretches, and distribute the prompts' tokens among them.

    `started_s` is when each request was first computed.
    """
    edges = _merged(np.concatenate([started_s, measured.first_s]))
    starts = _nearest(edges, started_s)
    ends = np.maximum(_nearest(edges, measured.first_s), starts + 1)
    middles_s = (edges[1:] + edges[:-1]) / 2
    room = np.maximum(1, token_budget - _decoding(measured, middles_s)).tolist()
    order = np.lexsort((ends, starts)).tolist()
    left = measured.prompt_tokens.tolist()
    rows: list[tuple[float, ...]] = []
    open_requests: list[int] = []
    next_one = 0
    for edge in range(len(edges) - 1):
        while next_one < len(order) and starts[order[next_one]] <= edge:
            open_requests.append(order[next_one])
            next_one += 1
        if open_requests:
            finished = {one for one in open_requests if ends[one] == edge + 1}
            before = [left[one] for one in open_requests]
            steps = _share(open_requests, finished, left, room[edge])
            work = _work(measured, open_requests, before, left)
            rows.append((edges[edge], edges[edge + 1], steps, *work))
            open_requests = [one for one in open_requests if one not in finished]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    return PromptSteps(*columns)


def _share(open_requests: list[int], finished: set[int], left: list[int], room: int) -> int:
    """Compute the rest of the prompts in one stretch, as far as it reaches; return its steps."""
    needed = sum(left[one] for one in finished)
    steps = max(1, -(-needed // room))
    spare = max(0, steps * room - needed)
    for one in open_requests:
        taken = left[one] if one in finished else min(spare, left[one] - 1)
        left[one] -= taken
        spare -= 0 if one in finished else taken
    return steps


def _work(
    measured: Measured, requests: list[int], before: list[int], left: list[int]
) -> tuple[int, int]:
    """Tokens computed since, and the sum of end² - start² over them."""
    tokens = squares = 0
    for one, was_left in zip(requests, before, strict=True):
        prompt = int(measured.prompt_tokens[one])
        tokens += was_left - left[one]
        squares += (prompt - left[one]) ** 2 - (prompt - was_left) ** 2
    return tokens, squares


def _decoding(measured: Measured, times_s: Floats) -> Ints:
    """Count the requests that are between their first and last token at each time."""
    begun = np.searchsorted(np.sort(measured.first_s), times_s)
    return np.asarray(begun - np.searchsorted(np.sort(measured.last_s), times_s), dtype=np.int64)


def _merged(times_s: Floats) -> Floats:
    ordered = np.sort(times_s)
    groups = np.cumsum(np.diff(ordered, prepend=ordered[0]) > SAME_EDGE_S)
    return np.asarray(np.bincount(groups, ordered) / np.bincount(groups))


def _nearest(edges: Floats, times_s: Floats) -> Ints:
    middles = (edges[1:] + edges[:-1]) / 2
    return np.searchsorted(middles, times_s).astype(np.int64)


@dataclass(frozen=True, slots=True)
class DecodeSteps:
    """Each request's steps that computed no prompts: their number, duration, and load beside it.

    `batch` and `contexts` are means over these steps.
    """

    steps: Floats
    seconds: Floats
    batch: Floats
    contexts: Floats


@dataclass(frozen=True, slots=True)
class Loads:
    """The decodes between consecutive times: the batch, and the sum of its contexts."""

    edges_s: Floats
    batch: Floats
    contexts: Floats
    decode_steps: Floats


def loads(measured: Measured, prompts: PromptSteps, step_s: Floats | float) -> Loads:
    """Rebuild the load over time, where a step that only decodes takes `step_s` between edges.

    Requests gain contexts evenly over steps, not over time: that is what `step_s` is needed for.
    """
    times = (measured.first_s, measured.last_s, prompts.start_s, prompts.end_s)
    edges = np.unique(np.concatenate(times))
    other_s = np.diff(edges) - np.diff(prompts.time_until(edges))
    decode_steps = np.maximum(0.0, other_s) / step_s
    passed = np.concatenate([[0.0], np.cumsum(decode_steps)]) + prompts.steps_until(edges)
    first, last = (np.searchsorted(edges, one) for one in (measured.first_s, measured.last_s))
    span = np.maximum(passed[last] - passed[first], 1e-9)
    slope = (measured.output_tokens - 1) / span
    start = measured.prompt_tokens + 1 - slope * passed[first]
    middle = (passed[1:] + passed[:-1]) / 2
    return Loads(
        edges,
        _active(len(edges), first, last, np.ones(len(measured))),
        _active(len(edges), first, last, start) + middle * _active(len(edges), first, last, slope),
        decode_steps,
    )


def _active(edges: int, first: Ints, last: Ints, amounts: Floats) -> Floats:
    """Sum the amounts of what is decoding between consecutive edges."""
    changes = np.bincount(first, amounts, edges) - np.bincount(last, amounts, edges)
    return np.asarray(np.cumsum(changes)[:-1])


def decode_steps(measured: Measured, prompts: PromptSteps, load: Loads) -> DecodeSteps:
    """Sum up the load over each request's steps that computed no prompts."""
    first, last = measured.first_s, measured.last_s
    at = np.searchsorted(load.edges_s, first), np.searchsorted(load.edges_s, last)
    within = prompts.steps_until(last) - prompts.steps_until(first)
    seconds = (last - first) - (prompts.time_until(last) - prompts.time_until(first))

    def over(amounts: Floats) -> Floats:
        sums = np.concatenate([[0.0], np.cumsum(amounts)])
        return np.asarray(sums[at[1]] - sums[at[0]])

    weight = np.maximum(over(load.decode_steps), 1e-9)
    return DecodeSteps(
        measured.output_tokens - 1 - within,
        seconds,
        over(load.decode_steps * load.batch) / weight,
        over(load.decode_steps * load.contexts) / weight,
    )
