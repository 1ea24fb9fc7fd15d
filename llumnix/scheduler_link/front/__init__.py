"""The frontend's end of the link: a fleet and a queue that are in another process."""
