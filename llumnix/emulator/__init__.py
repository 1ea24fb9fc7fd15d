"""The emulated engine: real bytes in KV blocks, batching on a real clock."""
