"""Workloads from a formula: the paper's power-law lengths with Poisson or Gamma arrivals.

A generator is written as one word, `power-law:PAIR[,cv=N][,rate=N]`, say `power-law:M-M` or
`power-law:S-L,cv=4`: PAIR is the input and the output length (S, M or L, means 128, 256, 512
tokens), cv the coefficient of variation of the gaps between arrivals (default 1: Poisson).
"""

from dataclasses import dataclass

from simulator.streams import stream
from simulator.workload.arrivals import renewal_arrivals
from simulator.workload.lengths import POWER_LAW, power_law_lengths
from simulator.workload.request import TraceRequest, WorkloadError

PREFIX = "power-law:"


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """The paper's generated workload (traces of §6.3 to 6.5): lengths S, M or L; Gamma arrivals."""

    prompt_size: str
    output_size: str
    cv: float = 1.0
    rate_rps: float = 1.0

    def generate(self, requests: int, seed: int) -> list[TraceRequest]:
        """Generate; prompt lengths, output lengths and arrivals draw from streams of their own."""
        arrivals_s = renewal_arrivals(
            self.rate_rps, self.cv, requests, stream(seed, "power-law/arrivals")
        )
        prompts = power_law_lengths(self.prompt_size, requests, stream(seed, "power-law/prompts"))
        outputs = power_law_lengths(self.output_size, requests, stream(seed, "power-law/outputs"))
        rows = zip(arrivals_s.round(6).tolist(), prompts.tolist(), outputs.tolist(), strict=True)
        return [TraceRequest(index, *row) for index, row in enumerate(rows)]


def parse_generator(text: str) -> PowerLaw:
    """Read a generator's one-word form; raises WorkloadError saying what is wrong with it."""
    pair, *settings = text.removeprefix(PREFIX).split(",")
    sizes = pair.split("-")
    if not text.startswith(PREFIX) or len(sizes) != 2 or not set(sizes) <= set(POWER_LAW):
        raise WorkloadError(
            f"{text!r} is not a generator: write power-law:IN-OUT with IN and OUT one of "
            f"{', '.join(POWER_LAW)}, like power-law:M-M or power-law:S-L,cv=4"
        )
    values = {"cv": 1.0, "rate": 1.0}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name not in values or not 0.0 <= number < float("inf"):
            raise WorkloadError(f"{text!r}: {setting!r} is not cv=NUMBER or rate=NUMBER")
        values[name] = number
    if values["rate"] == 0.0:
        raise WorkloadError(f"{text!r}: the rate must be above 0 requests per second")
    return PowerLaw(sizes[0], sizes[1], cv=values["cv"], rate_rps=values["rate"])
