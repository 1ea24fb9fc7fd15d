"""The test bed for real vLLM servers: cases, faults, and comparisons. Not shipped in the wheel."""
