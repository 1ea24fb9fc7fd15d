"""The sentences at the top of a report: the main figures, without advertising."""

from collections.abc import Sequence
from html import escape

from llumnix.report.data import NamedRun


def headline(runs: Sequence[NamedRun]) -> str:
    """Return the key figures of the valid runs, as HTML."""
    valid = [named for named in runs if named.run.valid]
    if not valid:
        return "No run was valid, so nothing here is a result."
    sentences = [_first_tokens(valid), _moves(valid), _outputs(valid)]
    return " ".join(sentence for sentence in sentences if sentence)


def invalid_notes(runs: Sequence[NamedRun]) -> list[str]:
    """Return why each invalid run is invalid, as HTML."""
    notes = []
    for named in runs:
        if named.run.valid:
            continue
        reasons = named.run.result.get("invalid_reasons") or ("no reason was given",)
        told = "; ".join(escape(str(reason)) for reason in reasons)
        notes.append(f"<b>{escape(named.name)}</b> is not a valid result: {told}.")
    return notes


def _first_tokens(valid: Sequence[NamedRun]) -> str:
    known = [(named, named.run.figure("ttft_s", "p99")) for named in valid]
    ranked = sorted(((p99, named.name) for named, p99 in known if p99 is not None))
    if not ranked:
        return ""
    best, best_name = ranked[0]
    text = (
        f"99 of 100 requests got their first token within <b>{best:.2f}&nbsp;s</b> under "
        f"<b>{escape(best_name)}</b>"
    )
    others = [
        f"{p99:.2f}&nbsp;s{_longer(p99, best)} under {escape(name)}" for p99, name in ranked[1:]
    ]
    return f"{_listed([text, *others])}."


def _longer(value: float, best: float) -> str:
    return f" ({value / best:.1f} times as long)" if best > 0 and value / best >= 1.05 else ""


def _moves(valid: Sequence[NamedRun]) -> str:
    sentences = []
    for named in valid:
        moved = named.run.figure("migrations_committed")
        if not moved:
            continue
        median = named.run.figure("downtime_ms", "p50")
        pause = f", pausing for <b>{median:.1f}&nbsp;ms</b> (median)" if median is not None else ""
        where = f" under {escape(named.name)}" if len(valid) > 1 else ""
        sentences.append(
            f"<b>{moved:,.0f}</b> times a request migrated while decoding{where}{pause}."
        )
    return " ".join(sentences)


def _outputs(valid: Sequence[NamedRun]) -> str:
    faults = [
        named.run.figure(name)
        for named in valid
        for name in ("failed", "tokens_lost", "tokens_doubled", "tokens_wrong")
    ]
    if any(fault is None for fault in faults):
        return ""
    total = sum(fault or 0 for fault in faults)
    if total == 0:
        return "No request failed, and no token was lost, doubled or wrong."
    return f"<b>{total:,.0f} requests or tokens were lost, doubled or wrong.</b>"


def _listed(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
