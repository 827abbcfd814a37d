"""`citysense profiles`: the command line of the device profiles.

Owns the arguments of its commands. What they do stands in the modules beside this one, which are imported only when a
command runs: the other commands of `citysense` must not wait for codecs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXIT_CODES = """\
exit codes:
  0  done
  1  the frame, the values or the profile are refused, or a check fails
  2  wrong use
"""
PROFILE = "id of a profile (citysense profiles list) or path of a YAML file"


def add_parser(commands: Any) -> None:
    """Add `profiles` with its commands."""
    group = commands.add_parser(
        "profiles",
        help="device profiles: list, show, check, decode, encode, document",
        description="Device profiles: one YAML file decodes, encodes, documents and tests one product.",
        epilog=f"example:\n  citysense profiles show generic/water-gauge\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    _list(actions)
    _show(actions)
    _check(actions)
    _decode(actions)
    _encode(actions)
    _doc(actions)
    _schema(actions)


def _action(actions: Any, name: str, purpose: str, examples: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"examples:\n{examples}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _list(actions: Any) -> None:
    parser = _action(
        actions,
        "list",
        "every profile of the catalogue",
        "  citysense profiles list\n  citysense profiles list --kind door_lock --json\n",
    )
    parser.add_argument("--kind", metavar="K", help="only this kind, such as waterlogging_gauge")
    _add_json(parser)
    parser.set_defaults(run=run_list)


def _show(actions: Any) -> None:
    parser = _action(
        actions,
        "show",
        "one profile: settings, options, messages with their fields, Modbus read plan, caveats",
        "  citysense profiles show generic/water-gauge\n  citysense profiles show ./my-gauge.yaml --json\n",
    )
    parser.add_argument("profile", metavar="P", help=PROFILE)
    _add_json(parser)
    parser.set_defaults(run=run_show)


def _check(actions: Any) -> None:
    parser = _action(
        actions,
        "check",
        "check profile files: format, layout, worked examples, round trips of drawn values",
        "  citysense profiles check my-gauge.yaml\n  citysense profiles check            the whole catalogue\n",
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE|DIR|P", help="YAML files, folders that hold them, or ids"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="draws other values for the round trips (1)")
    _add_json(parser)
    parser.set_defaults(run=run_check)


def _decode(actions: Any) -> None:
    parser = _action(
        actions,
        "decode",
        "say what a frame says: values by name with unit and place, and the readings",
        "  citysense profiles decode --profile generic/water-gauge "
        '\'{"boot": 3, "seq": 41, "v": {"water.level": 12.3}}\'\n'
        "  citysense profiles decode --profile my-gauge.yaml --setting mount.height=250 01 75 5c 03 82 44 08\n"
        "  citysense profiles decode --profile my-meter.yaml "
        '\'{"input": {"100": 3, "104": [0, 11500]}}\'\n'
        "  citysense profiles decode --profile my-meter.yaml 01 04 00 64 00 06 31 d7     an RTU read request\n",
    )
    _add_frame_arguments(parser)
    parser.add_argument("--message", metavar="M", help="the message; without it the frame is told by its looks")
    parser.add_argument("--port", type=_byte, metavar="N", help="the LoRaWAN port where the channel tells it")
    parser.add_argument(
        "frame",
        nargs="+",
        metavar="FRAME",
        help="hex digits (blanks, commas, colons, dashes and 0x allowed), JSON, registers as JSON, - (standard input) or @FILE",
    )
    parser.set_defaults(run=run_decode)


def _encode(actions: Any) -> None:
    parser = _action(
        actions,
        "encode",
        "make the frame, the registers or the Modbus writes that say these values",
        "  citysense profiles encode --profile my-gauge.yaml --message set_interval '{\"every\": 600}'\n"
        "  citysense profiles encode --profile generic/water-gauge --message report "
        '\'{"readings": {"water.level": 12.3}, "boot": 3, "seq": 41}\'\n'
        "  citysense profiles encode --profile my-gauge.yaml --message report --sample --seed 7\n"
        "  citysense profiles encode --profile my-gauge.yaml --message report --simulate 10\n",
    )
    _add_frame_arguments(parser)
    parser.add_argument("--message", required=True, metavar="M", help="the message")
    parser.add_argument("--sample", action="store_true", help="draw values instead of taking them")
    parser.add_argument(
        "--simulate",
        type=int,
        metavar="N",
        help="N reports of a device that moves as `sim` of the profile says, one a line",
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="for --sample and --simulate: other values (1)"
    )
    parser.add_argument(
        "values",
        nargs="?",
        metavar="VALUES",
        help='JSON object of values by name, or {"readings": {metric: value}, "time": ms, ...}, - or @FILE',
    )
    parser.set_defaults(run=run_encode)


def _doc(actions: Any) -> None:
    parser = _action(
        actions,
        "doc",
        "write device sheets: what a product measures, how it talks, byte layouts, commands, caveats, examples",
        "  citysense profiles doc generic/water-gauge --lang zh\n  citysense profiles doc --all --out sheets\n",
    )
    parser.add_argument("profiles", nargs="*", metavar="P", help=PROFILE)
    parser.add_argument("--all", action="store_true", help="every profile of the catalogue")
    parser.add_argument("--lang", choices=("en", "zh"), default="en", help="English or Chinese (en)")
    parser.add_argument(
        "--out", default="-", metavar="DIR|-", help="folder for <vendor>/<model>.<lang>.md, - prints (-)"
    )
    parser.set_defaults(run=run_doc)


def _schema(actions: Any) -> None:
    parser = _action(
        actions,
        "schema",
        "print the JSON Schema of profile files, for editors",
        "  citysense profiles schema > profile.schema.json\n",
    )
    parser.set_defaults(run=run_schema)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_frame_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", required=True, metavar="P", help=PROFILE)
    parser.add_argument(
        "--content", type=int, metavar="N", help="CoAP content format, where a message has several forms"
    )
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting or an option of the device; may stand several times",
    )
    _add_json(parser)


def _byte(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 255:
        raise argparse.ArgumentTypeError("a port is 0 to 255")
    return number


def run_list(arguments: argparse.Namespace) -> int:
    """`profiles list`."""
    from citysense.cli.profiles_show import print_list

    return print_list(arguments.kind, as_json=arguments.json)


def run_show(arguments: argparse.Namespace) -> int:
    """`profiles show`."""
    from citysense.cli.profiles_show import print_profile

    return print_profile(arguments.profile, as_json=arguments.json)


def run_check(arguments: argparse.Namespace) -> int:
    """`profiles check`."""
    from citysense.cli.profiles_check import check_files

    return check_files(arguments.files, arguments.seed, as_json=arguments.json)


def run_decode(arguments: argparse.Namespace) -> int:
    """`profiles decode`."""
    from citysense.cli.profiles_decode import decode

    return decode(arguments)


def run_encode(arguments: argparse.Namespace) -> int:
    """`profiles encode`."""
    from citysense.cli.profiles_encode import encode

    return encode(arguments)


def run_doc(arguments: argparse.Namespace) -> int:
    """`profiles doc`."""
    from citysense.cli.profiles_doc import write_sheets

    return write_sheets(arguments.profiles, every=arguments.all, language=arguments.lang, out=arguments.out)


def run_schema(arguments: argparse.Namespace) -> int:
    """`profiles schema`."""
    from citysense.cli.profiles_doc import print_schema

    return print_schema()
