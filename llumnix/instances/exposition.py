"""Read single facts from a server's Prometheus page, which may hold anything."""

import math
from collections.abc import Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

PREFIXES = ("vllm:", "vllm_")
"""The prefix of vLLM's metrics; some exporters escape the colon."""
LLUMLET = "llumnix_llumlet_info"
"""The gauge with which the vLLM plugin announces itself and its port."""
LARGEST = 2.0**40
"""A count beyond this is not believed; it would overflow the scheduler's columns."""


def info(page: str, name: str) -> Mapping[str, str] | None:
    """Return the labels of a gauge that only carries labels; None if the page has no such gauge."""
    return next((sample.labels for sample in samples(page, (name,))), None)


def is_vllm(page: str) -> bool:
    """Return whether a page is vLLM's."""
    return any(line.startswith(PREFIXES) for line in page.splitlines())


def samples(page: str, names: tuple[str, ...]) -> Iterator[Sample]:
    """Yield the samples of these names. Lines that cannot be read count as not there.

    Only these lines are parsed: a page may hold thousands of others, and be read every second.
    """
    for line in page.splitlines():
        if not line.startswith(names):
            continue
        try:
            found = [
                each for family in text_string_to_metric_families(line) for each in family.samples
            ]
        except Exception:  # noqa: S112 - the parser raises whatever a garbled line leads it to
            continue
        yield from (each for each in found if each.name in names)


def believable(value: float) -> bool:
    """Whether a gauge holds a count or a share: some servers report NaN or negative ones."""
    return math.isfinite(value) and 0 <= value <= LARGEST
