"""One engine without a clock: batching, paged memory and prefix caching as vLLM V1 does it."""
