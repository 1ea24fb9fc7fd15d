"""A second implementation of `simulator.fleet` that fast-forwards runs of identical decode steps.

Results are equal bit for bit: `tests/simulator/kernel/test_kernels.py`.

- `state` defines how requests and instances are laid out in integer columns;
- `roster`, `planning` and `counting` are the engine model (`simulator.engine`) on these columns,
  `late_arrivals` the requests too late for a step that was scheduled ahead;
- `runs` prices steps and runs of equal steps, `tables` does so from a table; `bounds` has the
  shortest and longest possible step, `pace` the recent step durations;
- `shared_blocks` and `prefixes` are its prefix cache, block by block, `keys` what prompts share;
- `stepping` brings an instance to a given time, `clockwork` is the loop over events;
- `front` places requests, `deciding` chooses where, by `policies.columns`.

All of these are plain functions of plain numbers. They run as they are, on lists, or compiled by
numba, on arrays (`compiled`). Rare work stays in Python: `fleet` and `instance` wire the scheduler,
the llumlets and their network to the columns, `holdings` is what requests hold there while they
move; `scaled_fleet`, `drain` and `engine.slots` serve instances that come and go.
"""
