"""Reading single facts off a server's Prometheus page."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

PREFIXES = ("vllm:", "vllm_")
"""How vLLM's metrics begin; some exporters escape the colon."""
LLUMLET = "llumnix_llumlet_info"
"""The gauge by which our vLLM plugin says that it is there, and on which port."""


def info(page: str, name: str) -> Mapping[str, str] | None:
    """Read the labels of a gauge that only carries labels; None when the page has none."""
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
    try:
        families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    except ValueError:
        return None
    samples = [sample for family in families for sample in family.samples]
    return samples[0].labels if samples else None


def is_vllm(page: str) -> bool:
    """Say whether a page is vLLM's."""
    return any(line.startswith(PREFIXES) for line in page.splitlines())
