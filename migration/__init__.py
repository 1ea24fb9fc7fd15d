"""Moving a running request: the protocol, its transports, and the llumlet inside each instance."""
