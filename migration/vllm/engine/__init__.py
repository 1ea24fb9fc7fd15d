"""What runs in vLLM's EngineCore process: the scheduler's side of the connector, and the agent."""
