"""The parts of `simulator_accuracy.py`."""
