"""The scheduler's end of the link: the frontends that it schedules for."""
