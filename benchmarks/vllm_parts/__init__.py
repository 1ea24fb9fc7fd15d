"""The parts of `vllm_downtime.py`."""
