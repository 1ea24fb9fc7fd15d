"""A client's request: its body, its headers, and how it is refused."""
