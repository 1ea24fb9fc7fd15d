"""Tests of the frontend: fidelity, splicing, queueing, failover."""
