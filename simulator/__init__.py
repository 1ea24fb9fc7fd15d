"""Virtual time: the engine model, cost models and workloads, all free of any clock."""
