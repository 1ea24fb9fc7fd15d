"""What runs in a vLLM worker process: copying KV blocks between the cache and the arena."""
