"""The one calm picture of a running citysense: pure drawing of a status, for a terminal and for a log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from citysense.cli.status_feed import Status

COLOURS = ("red", "orange", "yellow", "blue")
_STYLES = {"red": "bold red", "orange": "bold dark_orange", "yellow": "bold yellow", "blue": "bold dodger_blue1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What does not change while it runs."""

    api: str
    data: Path
    mqtt: str
    coap: str
    coaps: str
    """'' without CoAP over DTLS."""
    broker: str
    """The city's own broker, '' without one."""
    story: str
    insecure: bool
    language: str
    """`zh` or `en`: in which of its languages a case's title is shown."""


def draw(
    status: Status | None,
    around: Surroundings,
    *,
    uptime: float,
    restarts: dict[str, int],
    speed: float,
    broker: str = "",
) -> RenderableType:
    """The whole view. `status` is None until the platform has answered for the first time; `broker` is how the gateway
    stands with the city's own broker."""
    return Panel(
        Group(_figures(status, around.language), Text(), _places(around, broker)),
        title="citysense",
        subtitle=_subtitle(status, uptime, restarts, speed, around),
        border_style="red" if around.insecure else "cyan",
        padding=(1, 2),
    )


def _figures(status: Status | None, language: str) -> RenderableType:
    if status is None:
        return Text("starting …", style="dim")
    grid = Table.grid(padding=(0, 3))
    grid.add_column(style="dim", justify="right", no_wrap=True)
    grid.add_column()
    total = sum(status.frames.values())
    ways = "   ".join(f"{name.upper()} {count:,}" for name, count in sorted(status.frames.items()))
    grid.add_row("frames in", Text.assemble((f"{total:,}", "bold"), (f"   {ways}", "dim")))
    grid.add_row("stored", Text.assemble((f"{status.stored:,}", "bold"), (_beside(status), "dim")))
    grid.add_row("rejected", _rejected(status))
    if status.unavailable:
        grid.add_row("not stored", Text(f"{status.unavailable:,}   told their devices to keep them", style="bold red"))
    if status.short_of_space:
        where = ", ".join(status.short_of_space)
        grid.add_row(
            "disk full",
            Text(f"{where}: alarms are kept in the reserve, the rest is counted and given up", style="bold red"),
        )
    grid.add_row("open alerts", _alerts(status))
    grid.add_row("cases", Text.assemble((f"{status.cases:,}", "bold"), (f"   {title(status, language)}", "dim")))
    grid.add_row("frame to case", _latency(status))
    return grid


def title(status: Status, language: str) -> str:
    """Title of the newest case, '' before the first."""
    return status.newest_case.get(language, "") if status.newest_case else ""


def _beside(status: Status) -> str:
    parts = [
        f"{status.duplicate:,} repeats" if status.duplicate else "",
        f"{status.waiting:,} on the way" if status.waiting else "",
    ]
    return "".join(f"   {part}" for part in parts if part)


def _rejected(status: Status) -> Text:
    total = sum(status.rejected.values())
    reasons = "   ".join(f"{reason} {count:,}" for reason, count in sorted(status.rejected.items()) if count)
    return Text.assemble((f"{total:,}", "bold yellow" if total else "bold"), (f"   {reasons}", "dim"))


def _alerts(status: Status) -> Text:
    shown = [
        (f"{colour} {status.alerts.get(colour, 0)}   ", _STYLES[colour])
        for colour in COLOURS
        if status.alerts.get(colour)
    ]
    return Text.assemble(*shown) if shown else Text("none", style="green")


def _latency(status: Status) -> Text:
    if not status.frame_to_case.get("count"):
        return Text("no case yet", style="dim")
    p50, p99 = status.frame_to_case["p50_ms"], status.frame_to_case["p99_ms"]
    return Text.assemble(
        ("p50 ", "dim"),
        (f"{p50:.0f} ms", "bold"),
        ("   p99 ", "dim"),
        (f"{p99:.0f} ms", "bold"),
        (f"   newest {status.frame_to_case['count']:.0f} that a frame opened", "dim"),
    )


def _places(around: Surroundings, broker: str) -> RenderableType:
    grid = Table.grid(padding=(0, 3))
    grid.add_column(style="dim", justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("API and its docs", f"{around.api}/docs")
    grid.add_row("token for it", str(around.data / "admin-token"))
    grid.add_row("devices speak to", "   ".join(way for way in (around.mqtt, around.coap, around.coaps) if way))
    if around.broker:
        grid.add_row("broker", Text(f"{around.broker}   {broker}"))
    grid.add_row("data lies in", str(around.data))
    grid.add_row("scenario", around.story)
    if around.insecure:
        grid.add_row("", Text("INSECURE: listening beyond loopback without TLS", style="bold red"))
    return grid


def _subtitle(
    status: Status | None, uptime: float, restarts: dict[str, int], speed: float, around: Surroundings
) -> str:
    parts = [f"up {uptime:.0f} s", "Ctrl-C stops"]
    if status is not None and not status.ready:
        parts.insert(0, "waiting for " + ", ".join(status.unready))
    parts += [f"{name} restarted {count}x" for name, count in restarts.items() if count]
    return " · ".join(parts)


def line(status: Status | None) -> str:
    """The same in one line, for a log file or a pipe."""
    if status is None:
        return "starting"
    alerts = ", ".join(f"{colour} {status.alerts[colour]}" for colour in COLOURS if status.alerts.get(colour)) or "none"
    latency = (
        f"frame to case p50 {status.frame_to_case['p50_ms']:.0f} ms p99 {status.frame_to_case['p99_ms']:.0f} ms"
        if status.frame_to_case.get("count")
        else "no case yet"
    )
    return (
        f"frames {sum(status.frames.values())} · stored {status.stored} · rejected {sum(status.rejected.values())}"
        f" · open alerts {alerts} · cases {status.cases} · {latency}"
        + (f" · DISK FULL: {', '.join(status.short_of_space)}" if status.short_of_space else "")
    )
