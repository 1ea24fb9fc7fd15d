"""How the fleet talks to each kind of engine."""
