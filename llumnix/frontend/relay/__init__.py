"""Carrying a stream, or a whole answer, over as many instances as it takes."""
