"""The link between a frontend and the process that schedules for it: messages, and both ends."""
