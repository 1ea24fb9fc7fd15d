"""The parts of `adversarial.py`."""
