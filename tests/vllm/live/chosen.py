"""Which vLLM the live tests run against, and how much of them."""

import os

VERSION_VARIABLE = "LLUMNIX_TEST_VLLM"
"""The version; unset, the live tests are skipped."""
CORE_VARIABLE = "LLUMNIX_TEST_VLLM_CORE"
"""Set: only what must be tested against every version."""

VERSION = os.environ.get(VERSION_VARIABLE, "")
CORE_ONLY = bool(os.environ.get(CORE_VARIABLE))
