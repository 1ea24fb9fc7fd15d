"""A client's request: body, headers, and refusals."""
