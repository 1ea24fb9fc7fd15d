"""The fleet of `simulator.fleet` once more, but steps that are alike are skipped, not walked.

Results are equal, bit for bit: `tests/simulator/kernel/test_kernels.py`.

- `state` says how requests and instances lie in columns of whole numbers;
- `roster`, `planning` and `counting` are the engine model (`simulator.engine`) on these columns,
  `late_arrivals` who is too late for a step that was scheduled ahead;
- `runs` says what steps cost, and a run of equal ones, `tables` that by a table, `bounds` how short
  and how long a step can be, `pace` how long steps lately were;
- `shared_blocks` and `prefixes` are its prefix cache, block by block, `keys` what prompts share;
- `stepping` brings an instance to a moment;
- `front` holds requests and sends them, `deciding` says where, by `policies.columns`;
- `clockwork` is the loop over arrivals, reports, decisions and steps.

All of these are plain functions of plain numbers. They run as they are, on lists, or compiled by
numba, on arrays (`compiled`). What is rare stays in Python and uses the real thing: `fleet` and
`instance` wire the scheduler's rebalance, the llumlets and their network to the columns, `holdings`
is what requests hold there while they move; `scaled_fleet`, `drain` and `engine.slots` are for
instances that come and go.
"""
