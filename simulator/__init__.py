"""Virtual time: the engine model, cost models and workloads, all independent of any clock."""
