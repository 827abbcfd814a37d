"""The environment of a process that we start: the operator's, without the secrets that are meant for another one.

Whoever may read a process's environment, or makes it dump its memory, has what stands there; so the simulator does not get
the broker's password. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from citysense.parent import SUPERVISED
from citysense.settings import secret_variables


def child_environment(
    inherited: Mapping[str, str], own: Mapping[str, str] | None = None, *, supervisor: int
) -> dict[str, str]:
    """`inherited` without secret settings, then what is the child's `own`; it ends when the process `supervisor` does."""
    secrets = secret_variables()
    kept = {name: value for name, value in inherited.items() if name not in secrets}
    # Without PYTHONSAFEPATH a file in the working folder could stand in for a module.
    return {**kept, **(own or {}), "PYTHONSAFEPATH": "1", SUPERVISED: str(supervisor)}
