"""Break down the time of a simulated request."""

from rich.table import Table

from simulator.events import NS_PER_S
from simulator.fleet.life import Life


def shares(life: Life) -> dict[str, int]:
    """Split a request's time, from arrival to its last token, in ns; the parts add up to it."""
    end_ns = max(life.last_token_ns, life.arrived_ns)
    whole_ns = end_ns - life.arrived_ns
    dispatched_ns = min(life.dispatched_ns or end_ns, end_ns)
    admitted_ns = min(max(life.admitted_ns or end_ns, dispatched_ns), end_ns)
    first_ns = min(max(life.first_token_ns or end_ns, admitted_ns), end_ns)
    held_ns = dispatched_ns - life.arrived_ns
    queued_ns = admitted_ns - dispatched_ns
    prefill_ns = first_ns - admitted_ns
    rest_ns = whole_ns - held_ns - queued_ns - prefill_ns
    parts = {"queued at the frontend": held_ns, "queued": queued_ns, "prefill": prefill_ns}
    delays = {
        "preemption": life.preemption_loss_ns,
        "migration": sum(move.downtime_ns for move in life.moves),
        "others' prefills": life.prefill_interference_ns,
    }
    for name, delay_ns in delays.items():
        parts[name] = min(delay_ns, rest_ns)
        rest_ns -= parts[name]
    parts["decode"] = rest_ns
    return parts


def explain(life: Life) -> Table:
    """Return the parts as a table, with the migrations below."""
    parts = shares(life)
    whole_ns = sum(parts.values()) or 1
    title = (
        f"{life.request_id}: {life.request.prompt_tokens} + {life.tokens} tokens, "
        f"{life.fate.value}{f' ({life.reason})' if life.reason else ''}"
    )
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("where its time went")
    table.add_column("s", justify="right")
    table.add_column("share", justify="right")
    for name, part_ns in parts.items():
        table.add_row(name, f"{part_ns / NS_PER_S:.3f}", f"{part_ns / whole_ns:.1%}")
    table.add_section()
    table.add_row("in all", f"{sum(parts.values()) / NS_PER_S:.3f}", "")
    for move in life.moves:
        text = f"moved {move.source} → {move.destination}, {move.stages} stages"
        table.add_row(text, f"{move.started_ns / NS_PER_S:.3f}", f"{move.downtime_ns / 1e6:.1f} ms")
    return table
