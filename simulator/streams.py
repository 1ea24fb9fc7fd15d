"""Named random streams: one seed for a whole run, one independent stream per consumer.

Because a stream depends on its name alone, adding a consumer never shifts another's draws, and two
runs with a common seed differ only where they are meant to.
"""

import hashlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """Open the stream called `name` of a run's seed; the same pair always gives the same draws.

    Raises ValueError for a negative seed.
    """
    if seed < 0:
        raise ValueError(f"a seed must be 0 or more, not {seed}")
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    words = np.frombuffer(digest, dtype="<u4")
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=tuple(int(word) for word in words))
    return np.random.Generator(np.random.PCG64(sequence))
