"""One request of a workload: when it arrives and how long it is."""

from dataclasses import dataclass


class WorkloadError(Exception):
    """A trace, profile or generator cannot be used; the text says where and what to do."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """A request to come: `arrival_s` after the start of the workload, lengths in tokens.

    `class_name` is its priority class, `tenant` who pays (empty: nobody in particular).
    Raises ValueError for a negative or non-finite arrival and for lengths below one.
    """

    index: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    class_name: str = "normal"
    tenant: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.arrival_s < float("inf"):
            raise ValueError(f"arrival_s must be 0 or more, not {self.arrival_s}")
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError(
                "a request has at least one prompt and one output token, "
                f"not {self.prompt_tokens} and {self.output_tokens}"
            )
