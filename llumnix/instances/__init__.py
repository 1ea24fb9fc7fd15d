"""The link between the fleet and each kind of engine."""
