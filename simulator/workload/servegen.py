"""ServeGen: a folder that describes clients, from which a workload is generated.

`chunk-N-trace.csv` gives, for every ten minutes of client N, how many requests it sent and which
distribution fitted the gaps between them; `chunk-N-dataset.json` holds histograms of its lengths,
one for every six hours. It holds no requests. The workload is generated as follows:

- each window has the number of requests it had, at gaps of the fitted distribution (Gamma or
  Weibull), stretched to fill the window; the fitted scale is not needed for that;
- prompt and output lengths are drawn independently, from the latest histogram that is not empty (or
  the first, before there is one); reasoning is part of the output;
- each client is a tenant, `client-N`, with separate random streams.

Generation begins with the first window that has requests, whatever the seed. Folders of multimodal
requests are refused: their prompts are not only text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policies.types import FloatColumn, IntColumn
from simulator.streams import stream
from simulator.workload.request import TraceRequest, WorkloadError
from simulator.workload.rows import BadRows
from simulator.workload.servegen_clients import Client, Window, read_clients

# About a minute of work and a gigabyte; a folder may describe a thousand times as many.
MOST_REQUESTS = 5_000_000

# Of requests: when, whose (a client's index), prompt and output length.
Columns = tuple[FloatColumn, IntColumn, IntColumn, IntColumn]


def generate(
    folder: Path, requests: int | None = None, seed: int = 0, bad_rows: BadRows | None = None
) -> list[TraceRequest]:
    """Generate the first `requests` requests, or all that the folder describes.

    A smaller number gives a prefix of a larger one's. Raises WorkloadError for a folder that cannot
    be read, or describes too few requests or too many; with `bad_rows`, windows and clients that
    cannot be read are left out and counted there instead.
    """
    clients = read_clients(folder, bad_rows)
    total = sum(window.requests for client in clients for window in client.windows.values())
    wanted = total if requests is None else requests
    if not 0 < wanted <= min(total, MOST_REQUESTS):
        raise WorkloadError(
            f"{folder} describes {total:,} requests: ask for 1 to {min(total, MOST_REQUESTS):,}"
        )
    times_s, owners, prompts, outputs = _draw(clients, wanted, seed)
    order = np.argsort(times_s, kind="stable")[:wanted]
    rows = zip(
        (times_s[order] - times_s[order[0]]).round(6).tolist(),
        prompts[order].tolist(),
        outputs[order].tolist(),
        owners[order].tolist(),
        strict=True,
    )
    return [
        TraceRequest(index, time_s, prompt, output, tenant=f"client-{clients[owner].name}")
        for index, (time_s, prompt, output, owner) in enumerate(rows)
    ]


def _draw(clients: Sequence[Client], wanted: int, seed: int) -> Columns:
    """Draw window by window until there are enough requests."""
    streams = [_Streams.of(client, seed) for client in clients]
    parts: list[Columns] = []
    drawn = 0
    for start_s in sorted({start_s for client in clients for start_s in client.windows}):
        for number, client in enumerate(clients):
            if window := client.windows.get(start_s):
                parts.append(streams[number].draw(client, number, start_s, window))
                drawn += window.requests
        if drawn >= wanted:
            break
    times_s, owners, prompts, outputs = zip(*parts, strict=True)
    return (
        np.concatenate(times_s),
        np.concatenate(owners),
        np.concatenate(prompts),
        np.concatenate(outputs),
    )


@dataclass(frozen=True, slots=True)
class _Streams:
    arrivals: np.random.Generator
    prompts: np.random.Generator
    outputs: np.random.Generator

    @classmethod
    def of(cls, client: Client, seed: int) -> "_Streams":
        name = f"servegen/{client.name}"
        return cls(*(stream(seed, f"{name}/{what}") for what in ("arrivals", "prompts", "outputs")))

    def draw(self, client: Client, number: int, start_s: float, window: Window) -> Columns:
        prompts, outputs = client.lengths_at(start_s)
        count = window.requests
        times_s: FloatColumn = start_s + window.offsets_s(self.arrivals)
        owners = np.full(count, number, dtype=np.int64)
        return times_s, owners, prompts.draw(count, self.prompts), outputs.draw(count, self.outputs)
