"""Tests of llumnix/scheduler_link."""
