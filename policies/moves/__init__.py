"""Moving running requests: who proposes a migration, which request goes, what is under way."""
