"""A supervised process ends when its supervisor does, however that came to its end."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping

SUPERVISED = "CITYSENSE_SUPERVISOR_PID"
_PR_SET_PDEATHSIG = 1


def end_with_parent(environment: Mapping[str, str]) -> None:
    """Have the kernel send SIGTERM to this process when the supervisor named in the environment dies.

    Without the variable, or off Linux, nothing happens: the process was started by hand.
    """
    supervisor = environment.get(SUPERVISED)
    if supervisor is None or not hasattr(os, "pidfd_open"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(supervisor):
        raise SystemExit(1)  # it died between our start and the line above
