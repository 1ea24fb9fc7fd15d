"""The fleet of `simulator.cluster` once more, but steps that are alike are skipped, not walked.

The same workloads give the same results, bit for bit, as `tests/simulator/test_fast.py` holds.

- `state` says how requests and instances lie in columns of whole numbers;
- `batching` is the engine model (`simulator.engine`) on these columns, `runs` what a run of equal
  steps costs, `lateness` what each request is told of its tokens;
- `front` holds requests back and dispatches them, by the arithmetic of `policies.columns`;
- `clockwork` is the loop over arrivals, reports, decisions and steps.

All of these are plain functions of plain numbers. They run as they are, on lists, or compiled by
numba, on arrays (`compiled`). What is rare stays in Python and uses the real thing: `fleet` and
`site` wire the scheduler's rebalance, the llumlets and their network to the columns.
"""
