"""Tell what this process lacks from what a server does: nobody else is to blame for it."""

import errno

_OURS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}
)
_DEEP = 8


def is_ours(error: BaseException | None) -> bool:
    """Return whether an error says that this process has run out of files, ports or memory."""
    for _ in range(_DEEP):
        if error is None:
            return False
        inner = getattr(error, "os_error", None)
        if any(isinstance(each, OSError) and each.errno in _OURS for each in (error, inner)):
            return True
        error = error.__cause__ or error.__context__
    return False
