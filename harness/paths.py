"""Paths that a recipe, a setting or an option gives as text."""

from __future__ import annotations

import errno
from pathlib import Path

from rvosbench.harness.errors import PrerequisiteError
from rvosbench.harness.text import one_line

_IMPOSSIBLE = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP)


def given_path(text: str) -> Path:
    """The path, ``~`` expanded, whether or not anything is there.

    Raises:
        PrerequisiteError: no file of this machine can have it: too long, characters that no name may hold, an unknown
            user's home.
    """
    try:
        path = Path(text).expanduser()
        path.lstat()
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            raise _impossible(text, error.strerror or str(error)) from error
    except (ValueError, RuntimeError) as error:
        # NUL and half characters; a home that is not known.
        raise _impossible(text, str(error)) from error
    return path


def _impossible(text: str, reason: str) -> PrerequisiteError:
    named = one_line(text)
    named = named if len(named) <= 60 else f"{named[:60]}..."
    return PrerequisiteError(f"'{named}' cannot be a path: {one_line(reason).rstrip('.')}.", "Correct it.")
