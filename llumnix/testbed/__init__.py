"""Real vLLM servers on this machine's CPU: an environment, a tiny model, processes.

For tests, benchmarks and `llumnix demo --engine vllm`; running a fleet needs none of it.
"""

from llumnix.testbed.environment import VERSIONS, Environment, ensure_environment
from llumnix.testbed.model import TinyModel, write_model
from llumnix.testbed.servers import ServerOptions, VllmServer, launched_vllm

__all__ = [
    "VERSIONS",
    "Environment",
    "ServerOptions",
    "TinyModel",
    "VllmServer",
    "ensure_environment",
    "launched_vllm",
    "write_model",
]
