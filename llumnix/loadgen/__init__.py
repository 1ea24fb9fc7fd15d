"""Load generation: replay a workload against any OpenAI server and check every token."""

from llumnix.loadgen.check import OutputCheck, OutputChecker, check_outputs, compare_tokens
from llumnix.loadgen.exchange import Endpoint
from llumnix.loadgen.openloop import LoadOptions, run_load
from llumnix.loadgen.prompts import PromptSource
from llumnix.loadgen.records import RequestRecord, Status

__all__ = [
    "Endpoint",
    "LoadOptions",
    "OutputCheck",
    "OutputChecker",
    "PromptSource",
    "RequestRecord",
    "Status",
    "check_outputs",
    "compare_tokens",
    "run_load",
]
