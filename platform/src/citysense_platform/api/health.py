"""Is the process alive, and does each of its parts make progress.

Owns the named checks and the two open routes. A part is judged by the age of its last progress: a task that hangs
looks healthy in every other way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from citysense_platform.api.problems import Problem

Age = Callable[[], float | None]
"""Seconds since the last progress, None if there was none yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A part of the process and how old its last progress may be, in seconds."""

    name: str
    age: Age
    limit: float


class Health:
    """The checks of one process, in the order of their making."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def check(self, name: str, age: Age, *, limit: float) -> None:
        """Judge the part `name` by `age()`; fails above `limit` seconds and before its first progress."""
        if name in self._checks:
            raise ValueError(f"there is a check {name!r} already")
        self._checks[name] = Check(name=name, age=age, limit=limit)

    def failing(self) -> list[str]:
        """Names of the parts that make no progress."""
        return [entry["name"] for entry in self.states() if not entry["ok"]]

    def states(self) -> list[dict[str, Any]]:
        """Per check: name, age and limit in seconds, ok."""
        states = []
        for check in self._checks.values():
            age = check.age()
            ok = age is not None and age <= check.limit
            states.append({"name": check.name, "age": age, "limit": check.limit, "ok": ok})
        return states


def health_routes(health: Health) -> APIRouter:
    """/healthz and /readyz; to be served without a token."""
    router = APIRouter(tags=["operation"])

    @router.get("/healthz", summary="Is the process alive")
    async def healthz() -> dict[str, str]:
        """200 as long as the event loop turns; a supervisor restarts the process when this stays away."""
        return {"status": "alive"}

    @router.get(
        "/readyz",
        summary="Does every part of the process make progress",
        responses={503: {"description": "Parts named in `failing` make no progress."}},
    )
    async def readyz() -> dict[str, Any]:
        """200 if all do; ages in seconds since each part's last progress."""
        failing = health.failing()
        if failing:
            raise Problem(
                503,
                "not_ready",
                f"no progress in: {', '.join(failing)}",
                failing=failing,
                checks=health.states(),
            )
        return {"status": "ready", "checks": health.states()}

    return router
