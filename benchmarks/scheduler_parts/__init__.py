"""The parts of `scheduler_scale.py`."""
