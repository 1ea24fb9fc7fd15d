"""Workloads: trace readers, generators and profiles."""
