"""Generation that stays on its instance: counted and placed, never moved."""
