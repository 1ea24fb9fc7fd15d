"""Tests of what the fleet knows of its instances."""
