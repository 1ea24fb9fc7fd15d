"""The emulated model: a vocabulary, KV made of hashes, and the output that follows from them."""
