# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that answer EBUSY while somebody else holds a lock for a moment: they are asked again.

In DAMON's tree `state`, `pid` and the `nr_` files only try for the tree's lock (mutex_trylock() in
mm/damon/sysfs.c; `state` when it is read, too, since the fix of its use after free in 6.17, which
stable kernels have). A kdamond takes that lock itself, to see whether it was told something.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hibprep.errors import KernelFileError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_TRIES = 50
_PAUSE_SECONDS = 0.01


def patiently(do: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """`do`, again where the answer is EBUSY, for half a second; its error when that was not enough,
    and any other at once."""
    for _ in range(_TRIES - 1):
        try:
            return do(*args, **kwargs)
        except KernelFileError as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(_PAUSE_SECONDS)
    return do(*args, **kwargs)
