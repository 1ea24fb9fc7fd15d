"""The emulated model: a vocabulary, KV made of hashes, and the answer they must give."""
