"""Where a stream goes next: first, when its request moves, and when its instance dies."""
