"""HTTP/1.1 as the completion paths need it: connections to instances, and the client's end."""
