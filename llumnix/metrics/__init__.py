"""Metrics: their catalogue, and the tally that counts them."""
