"""GET /api/v1/status: the figures of this moment in one answer, for the live view and for a quick look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from pydantic import BaseModel, Field


class FrameToCase(BaseModel):
    """Time from the gateway's receipt of a frame to the commit of its case, over the newest cases."""

    count: int = Field(description="Cases measured, at most the last 1,000.")
    p50_ms: float
    p99_ms: float


class Status(BaseModel):
    """One moment. Counts of frames are since the gateway's start; alerts and cases are of the data folder."""

    gateway_seen: bool = Field(description="A gateway has given a sign of life within 5 s.")
    frames: dict[str, int] = Field(description="Frames in, by protocol.")
    stored: int
    duplicate: int
    rejected: dict[str, int] = Field(description="Rejected frames by reason; all are in the dead letters.")
    unavailable: int = Field(description="Frames that could not be stored; their devices keep them.")
    short_of_space: list[str] = Field(
        description="Processes whose disk is full: safety is kept in their reserve, state and bulk become tombstones."
    )
    waiting: int = Field(description="Records in gateways' spools, not yet taken over by the platform.")
    alerts: dict[str, int] = Field(description="Open alerts by colour.")
    cases: int
    frame_to_case: FrameToCase
    newest_case: dict[str, str] | None = Field(description="Title of the newest case, by language: zh and en.")
    ready: bool
    unready: list[str] = Field(description="Parts that make no progress.")


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the ordered values lie, nearest rank; 0 for none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def frame_to_case(milliseconds: list[int]) -> FrameToCase:
    """Count, p50 and p99 of the latencies given, in any order."""
    ordered = sorted(float(value) for value in milliseconds)
    return FrameToCase(count=len(ordered), p50_ms=percentile(ordered, 0.50), p99_ms=percentile(ordered, 0.99))


def by_prefix(counters: Mapping[str, float], prefix: str) -> dict[str, int]:
    """The counters below `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: int(value) for name, value in counters.items() if name.startswith(prefix + ".")}


def status_routes(source: Callable[[], Awaitable[Status]]) -> APIRouter:
    """The route that answers with what `source` says."""
    router = APIRouter(tags=["operation"])

    @router.get("/api/v1/status", summary="Figures of this moment")
    async def status() -> Status:
        """Frames, alerts, cases, and the time from frame to case."""
        return await source()

    return router
