# SPDX-License-Identifier: Apache-2.0
"""Whether something that may end the process does: tried in a copy of the process.

ONNX Runtime raises nothing where it divides by zero, it is killed: a Scan of nothing does so. Who
tries sizes on a model that may not fit must not die of it.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import warnings
from collections.abc import Callable

_SECONDS = 60.0
"""How long a copy may take: a lock that another thread held is never given back in a copy."""


def returns(call: Callable[[], object], seconds: float = _SECONDS) -> bool:
    """Whether a call returns, and neither raises, kills the process, nor takes longer than this.

    What it does to memory is forgotten. It must take part in no pool of threads: a copy has none.
    Where the system makes no copies of a process cheaply (elsewhere than on Linux), the answer is
    yes.
    """
    if sys.platform != "linux":
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the copy lacks
        child = os.fork()
    if child == 0:
        _call_and_exit(call, seconds)
    _, status = os.waitpid(child, 0)
    return status == 0


def _call_and_exit(call: Callable[[], object], seconds: float) -> None:
    """Call, silently, and end this process without any cleaning up: it is the parent's to do."""
    status = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process, locks or not
        signal.setitimer(signal.ITIMER_REAL, seconds)
        faulthandler.disable()
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silence, stream)
        call()
        status = 0
    finally:
        os._exit(status)
