"""Tests of llumnix/workers."""
