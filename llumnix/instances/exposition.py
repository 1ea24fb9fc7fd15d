"""Read single facts from a server's Prometheus page."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

PREFIXES = ("vllm:", "vllm_")
"""The prefix of vLLM's metrics; some exporters escape the colon."""
LLUMLET = "llumnix_llumlet_info"
"""The gauge with which the vLLM plugin announces itself and its port."""


def info(page: str, name: str) -> Mapping[str, str] | None:
    """Return the labels of a gauge that only carries labels; None if the page has no such gauge."""
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
    try:
        families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    except ValueError:
        return None
    samples = [sample for family in families for sample in family.samples]
    return samples[0].labels if samples else None


def is_vllm(page: str) -> bool:
    """Return whether a page is vLLM's."""
    return any(line.startswith(PREFIXES) for line in page.splitlines())
