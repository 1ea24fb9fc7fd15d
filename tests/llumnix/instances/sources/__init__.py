"""Tests of the sources of instances."""
