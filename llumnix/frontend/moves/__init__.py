"""Where a stream goes: at first, when its request migrates, and when its instance dies."""
