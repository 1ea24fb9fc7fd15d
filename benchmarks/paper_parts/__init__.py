"""The parts of `benchmarks/paper.py`: plan, runs, the paper's figures, tables, pictures, prose."""
