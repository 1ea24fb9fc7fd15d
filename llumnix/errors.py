"""The tree of errors that a user may see; each message says what to do.

LlumnixError
├── ConfigError      a file, flag or value is wrong
├── LaunchError      an emulated engine did not start
└── Unreachable      a server did not respond
"""


class LlumnixError(Exception):
    """The root: the command line prints its message and exits with status 2."""


class ConfigError(LlumnixError):
    """A configuration file, flag or value is wrong."""


class LaunchError(LlumnixError):
    """A child process did not start."""


class Unreachable(LlumnixError):  # noqa: N818 - says what is the case
    """A server did not respond."""
