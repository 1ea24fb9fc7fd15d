"""The OpenAI-compatible frontend: forwarding, stream ledgers and splicing."""
