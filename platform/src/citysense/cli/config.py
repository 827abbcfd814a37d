"""`citysense config show`: the settings in force and where each value came from."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from citysense.settings import Origin, Settings, is_secret, load_settings

EXAMPLE = """\
example:
  CITYSENSE_API_PORT=8081 citysense config show
"""


def add_parser(commands: Any) -> None:
    """Add `config` with its sub-command."""
    config = commands.add_parser(
        "config",
        help="show the settings in force",
        description="Settings: from flags, CITYSENSE_* variables, citysense.toml and defaults, in this order.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = config.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="every setting, its value and its source",
        description="Every setting, its value, and where the value came from: a flag, a variable, citysense.toml or the default.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    show.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of ./citysense.toml")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the settings."""
    _, origins = load_settings({}, os.environ, arguments.config)
    if arguments.json:
        print(
            json.dumps({o.name: {"value": shown(o), "source": o.source} for o in origins}, indent=2, ensure_ascii=False)
        )
        return 0
    table = Table("setting", "value", "from", "meaning", box=None, header_style="bold")
    for origin in origins:
        value = shown(origin)
        meaning = Settings.model_fields[origin.name].description
        table.add_row(origin.name, "-" if value is None else str(value), origin.source, meaning)
    Console().print(table)
    return 0


def shown(origin: Origin) -> Any:
    """The value as it may be printed: secrets only say that they are set."""
    if origin.value is not None and is_secret(origin.name):
        return "(set)"
    if isinstance(origin.value, str) and "://" in origin.value and "@" in origin.value:
        # A password in an address is refused where the address is used; it must not be printed before that either.
        scheme, rest = origin.value.split("://", 1)
        return f"{scheme}://(hidden)@{rest.rsplit('@', 1)[1]}"
    return str(origin.value) if isinstance(origin.value, Path) else origin.value
