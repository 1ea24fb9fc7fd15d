"""Moving running requests: who proposes a migration, which request moves, what is under way."""
