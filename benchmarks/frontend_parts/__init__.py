"""The parts of `frontend.py`: load tools in C, the routers it compares, and its rounds."""
