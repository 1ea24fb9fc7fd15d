"""Commands for a fleet that runs: look at it, steer it by hand, let instances come and go."""
