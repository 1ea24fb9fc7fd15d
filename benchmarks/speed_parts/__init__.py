"""The parts of `simulator_speed.py`."""
