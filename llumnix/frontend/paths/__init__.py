"""Every path of the clients' port: which it is, and how it reaches an instance."""
