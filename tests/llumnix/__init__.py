"""Tests of llumnix."""
