"""The tree of errors a user may see; each says what to do.

LlumnixError
├── ConfigError      a file, flag or value is wrong
├── LaunchError      an emulated engine did not start
└── Unreachable      a server did not answer
"""


class LlumnixError(Exception):
    """The root: the CLI prints its text and exits with status 2."""


class ConfigError(LlumnixError):
    """A configuration file, flag or value is wrong."""


class LaunchError(LlumnixError):
    """A child process did not start."""


class Unreachable(LlumnixError):  # noqa: N818 - says what is the case
    """A server did not answer."""
