"""`citysense profiles`: what it prints and the code it leaves with, on real files."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from citysense.cli.main import main
from citysense.cli.profiles_input import Bytes, understand
from citysense.cli.text_table import aligned, folded, hanging, wrapped
from citysense_profiles import load_catalogue
from citysense_profiles.catalogue import OWN_CATALOGUE
from citysense_profiles.schema import profile_schema

EXAMPLE = OWN_CATALOGUE / "_example" / "level-gauge.yaml"
FORMAT_PAGE = Path(__file__).resolve().parents[2] / "device_profiles" / "PROFILE_FORMAT.md"
OFFERED = [path for path in OWN_CATALOGUE.glob("*/*.yaml") if path.parent != EXAMPLE.parent]
FRAME = "01 01 23 45 6b 00 d4 56 08 44 0e 1a 11 1e 00 00 a1 b6"
LOGGED = "01012345 6b00d456 7fff 0e1a 32 1e 00 02 06c31c10 01cf41c0 6b00d32a 0844 6b00d1fe 7fff a2ae"
REQUEST = "01 04 00 64 00 06 31 d7"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `citysense profiles ...`: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = main(["profiles", *map(str, words)])
        except SystemExit as leaving:  # argparse
            code = int(leaving.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def decoded(run: Any, *words: object) -> dict[str, Any]:
    code, out, err = run("decode", "--json", "--profile", EXAMPLE, *words)
    assert (code, err) == (0, "")
    return dict(json.loads(out))


def edited(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """The example with changes, under another id."""
    text = EXAMPLE.read_text(encoding="utf-8").replace("_example/level-gauge", "acme/level-gauge")
    text = text.replace("vendor: Example", "vendor: Acme")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "draft.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- list and show


def test_list_fits_the_screen_and_names_every_profile(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = run("list")
    lines = out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == ["id", "kind", "transports", "codecs", "title"]
    shown = {line.split()[0] for line in lines[1:]}
    assert shown == {f"{path.parent.name}/{path.stem}" for path in OFFERED}


def test_list_of_one_kind_as_json(run: Any) -> None:
    code, out, _ = run("list", "--kind", "door_lock", "--json")
    found = json.loads(out)
    assert code == 0
    assert "generic/nbiot-lock" in {one["id"] for one in found}
    assert {one["kind"] for one in found} == {"door_lock"}
    assert run("list", "--kind", "toaster")[0] == 2


def test_show_tells_head_settings_options_fields_and_read_plan(run: Any) -> None:
    code, out, _ = run("show", EXAMPLE)
    assert code == 0
    for part in (
        "mount.height",
        "short*",
        "water.distance",
        "0=none, 1=good",
        "function 4, input 100 to 105",
        "7FFF while",
    ):
        assert part in out
    code, out, _ = run("show", EXAMPLE, "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["options"]["range"]["default"] == "short"
    assert shown["messages"]["registers"]["reads"] == [
        {"function": 3, "table": "holding", "address": 200, "count": 1},
        {"function": 4, "table": "input", "address": 100, "count": 6},
    ]
    assert {"name": "distance", "type": "int", "unit": "mm", "metric": "water.distance", "role": None} in shown[
        "messages"
    ]["report"]["fields"]


def test_a_profile_that_is_not_there_is_wrong_use_with_a_hint(run: Any) -> None:
    code, _, err = run("show", "generic/water-gage")
    assert code == 2
    assert "did you mean generic/water-gauge" in err
    assert run("show", "nowhere.yaml")[0] == 2


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [("acme/draft", "for the file write acme/draft.yaml"), ("notes.txt", "a profile file ends in .yaml or .yml")],
)
def test_a_path_that_lacks_its_ending_is_told_so(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, hint: str
) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "draft.yaml").touch()
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    code, out, err = run("show", wanted)
    assert (code, out) == (2, "")
    assert hint in err


@pytest.mark.parametrize("columns", [80, 100])
def test_show_folds_long_notes_into_the_screen(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    words = ", ".join(f"{code}: the_word_for_{code}" for code in range(20, 60))
    path = edited(tmp_path, ("map: {65: auto, 77: manual}", f"map: {{{words}}}"))
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run("show", path)
    assert code == 0
    assert "0x3B=the_word_for_59" in out
    assert [line for line in out.splitlines() if "the_word_for" in line and len(line) > columns] == []


# --- decode


def test_decode_by_looks_gives_values_units_places_and_readings(run: Any) -> None:
    found = decoded(run, "--setting", "mount.height=250", *FRAME.split())
    assert found["profile"] == "_example/level-gauge"
    assert found["message"] == "report"
    assert found["values"]["distance"] == 2116
    assert found["values"]["coverage"] == "good"
    assert found["units"] == {"distance": "mm", "battery": "V", "temperature": "Cel"}
    assert found["where"]["distance"] == 8
    assert found["serial"] == "012345"
    (reading,) = found["readings"]
    assert reading["time"] == "2026-11-20T23:14:30.000Z"
    assert reading["values"]["water.level"] == 38.4
    assert reading["missing"] == []


def test_decode_lists_rounds_and_what_is_missing(run: Any) -> None:
    found = decoded(run, LOGGED)
    assert found["values"]["log.distance"] == [2116, None]
    assert found["where"]["log.distance"] == [28, 34]
    assert [reading["missing"] for reading in found["readings"]] == [["water.distance"], [], ["water.distance"]]
    code, out, _ = run("decode", "--profile", EXAMPLE, LOGGED)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["log.distance[0]", "2116", "mm", "28", "water.distance"] in lines
    assert ["log.distance[1]", "-", "34", "water.distance"] in [line[:2] + line[-2:] for line in lines if line]


def test_decode_takes_an_option(run: Any) -> None:
    found = decoded(run, "--setting", "range=long", FRAME)
    assert found["units"]["distance"] == "cm"
    assert found["readings"][0]["values"]["water.distance"] == 2116.0


def test_decode_of_json_from_standard_input_and_from_a_file(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = b'{"sn": "012345", "bat": null, "alarms": [{"ts": 1795216470000, "what": "tilt"}]}'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(document)))
    found = decoded(run, "-")
    assert found["message"] == "alarm"
    assert found["where"]["alarms.what"] == ["/alarms/0/what"]
    assert found["readings"][0]["missing"] == ["battery.voltage"]
    (tmp_path / "frame").write_bytes(bytes.fromhex(FRAME))
    assert decoded(run, f"@{tmp_path / 'frame'}")["message"] == "report"


def test_decode_of_registers(run: Any) -> None:
    words = '{"input": {"100": 2116, "101": [20864, 1, 16641, 12590, 12800]}, "holding": {"200": [300]}}'
    found = decoded(run, "--message", "registers", words)
    assert found["values"] == {
        "distance": 2116,
        "uptime": 86400,
        "tilted": True,
        "mode": "auto",
        "firmware": "1.2",
        "interval": 300,
    }
    assert found["where"]["uptime"] == "input:101"
    assert decoded(run, words) == found


@pytest.mark.parametrize("typed", ["01 02", "30 31 30 32"])
def test_a_frame_that_travels_as_hex_text_may_be_typed_either_way(run: Any, tmp_path: Path, typed: str) -> None:
    path = tmp_path / "wrapped.yaml"
    path.write_text(
        """
schema: 1
id: acme/wrapped
kind: radio_module
title: Wrapped
product: {vendor: Acme, model: Wrapped, source: page 1}
transport: {mqtt: {}}
report_every: 1h
messages:
  report:
    codec: {type: binary, wrap: hex_text}
    fields: [{name: a, type: u8}, {name: b, type: u8}]
vectors: []
""",
        encoding="utf-8",
    )
    code, out, _ = run("decode", "--json", "--profile", path, typed)
    assert (code, json.loads(out)["values"]) == (0, {"a": 1, "b": 2})
    assert run("encode", "--profile", path, "--message", "report", '{"a": 1, "b": 2}')[1].strip() == "0102"


@pytest.mark.parametrize(
    "words", ['{"input": {"x": 1}}', '{"input": {"1": 65536}}', '{"output": {"1": 1}}', "[1]", '{"input": 3']
)
def test_registers_that_are_none_are_wrong_use(run: Any, words: str) -> None:
    code, out, err = run("decode", "--profile", EXAMPLE, "--message", "registers", words)
    assert (code, out) == (2, "")
    assert err.startswith("citysense: ")


def test_a_read_request_is_explained(run: Any) -> None:
    found = decoded(run, "--message", "registers", REQUEST)
    assert found["request"] == {"unit": 1, "function": 4, "address": 100, "quantity": 6, "table": "input"}
    assert [one["name"] for one in found["fields"]] == ["distance", "uptime", "tilted", "mode", "firmware"]
    assert decoded(run, REQUEST)["request"] == found["request"]
    code, _, err = run("decode", "--profile", EXAMPLE, "--message", "registers", REQUEST[:-1] + "0")
    assert code == 1
    assert "checksum" in err


def test_a_refused_frame_leaves_with_1_and_says_where(run: Any) -> None:
    broken = FRAME.removesuffix("a1 b6") + "ff ff"
    code, out, err = run("decode", "--json", "--profile", EXAMPLE, broken)
    assert (code, err) == (1, "")
    assert json.loads(out)["error"] == {
        "code": "checksum",
        "profile": "_example/level-gauge",
        "message": "report",
        "field": "crc",
        "offset": 16,
        "text": json.loads(out)["error"]["text"],
    }
    code, out, err = run("decode", "--profile", EXAMPLE, broken)
    assert (code, out) == (1, "")
    assert err.startswith("citysense: checksum: ")
    assert "field crc, byte 16" in err


@pytest.mark.parametrize(
    "words",
    [
        ["01 0"],
        ["zz"],
        ["--message", "nothing", FRAME],
        ["--setting", "mount.height", FRAME],
        ["--setting", "mount.height=high", FRAME],
        ["--setting", "range=middle", FRAME],
        ["--setting", "colour=red", FRAME],
        ["--port", "256", FRAME],
    ],
)
def test_wrong_use_leaves_with_2(run: Any, words: list[str]) -> None:
    code, out, err = run("decode", "--profile", EXAMPLE, *words)
    assert (code, out) == (2, "")
    assert err


def test_a_report_that_fits_no_message_is_not_judged_as_a_command_alone(run: Any) -> None:
    code, _, err = run("decode", "--profile", EXAMPLE, '{"sn": "012345"}')
    assert code == 1
    assert "no_match: no message fits these 16 bytes; messages of this profile: report" in err
    code, _, err = run("decode", "--profile", EXAMPLE, "--message", "set_interval", '{"sn": "012345"}')
    assert code == 1
    assert "shape: every is missing" in err


@pytest.mark.parametrize("typed", ["0x01, 0x02", "01-02", "01:02", "0102", "0X01 0X02"])
def test_hex_may_be_typed_as_descriptions_print_it(typed: str) -> None:
    assert understand(typed.encode(), ()) == Bytes(b"\x01\x02", request=False, certain=True)


@pytest.mark.parametrize("missing", ["@nothing", "@."])
def test_a_frame_or_values_that_cannot_be_read_are_wrong_use(run: Any, missing: str) -> None:
    for words in (["decode", missing], ["encode", "--message", "set_interval", missing]):
        code, out, err = run(*words, "--profile", EXAMPLE)
        assert (code, out) == (2, "")
        assert f"{missing}: the file cannot be read: " in err


def test_brackets_without_end_are_wrong_use(run: Any, tmp_path: Path) -> None:
    (tmp_path / "deep").write_text('{"input": ' + "[" * 200_000, encoding="utf-8")
    deep = f"@{tmp_path / 'deep'}"
    assert run("decode", "--profile", EXAMPLE, "--message", "registers", deep)[0] == 2
    assert run("encode", "--profile", EXAMPLE, "--message", "set_interval", deep)[0] == 2


def test_secret_values_are_never_printed(run: Any, tmp_path: Path) -> None:
    path = edited(
        tmp_path,
        ("pointer: /sn, type: text, role: serial, required: true}", "pointer: /sn, type: text, secret: true}"),
        (
            '    serial: "012345"\n    values: {serial_number: "012345", battery: null',
            "    values: {serial_number: '012345', battery: null",
        ),
    )
    document = '{"sn": "topsecret", "alarms": []}'
    for words in ([], ["--json"]):
        code, out, err = run("decode", *words, "--profile", path, document)
        assert code == 0
        assert "topsecret" not in out + err
        assert "(secret)" in out


# --- encode


def test_encode_by_name_and_by_readings_come_back(run: Any) -> None:
    code, out, _ = run("encode", "--profile", EXAMPLE, "--message", "set_interval", '{"every": 600}')
    assert (code, json.loads(out)) == (0, {"cfg": {"every": 600}})
    readings = {
        "readings": {"water.distance": 211.6, "battery.voltage": 3.61},
        "time": 1795216470000,
        "serial": "012345",
    }
    code, out, _ = run("encode", "--profile", EXAMPLE, "--message", "report", json.dumps(readings))
    assert code == 0
    found = decoded(run, out.strip())
    assert found["values"]["distance"] == 2116
    assert found["readings"][0]["time"] == "2026-11-20T23:14:30.000Z"


def test_encode_of_all_values_gives_the_frame(run: Any) -> None:
    values = decoded(run, FRAME)["values"]
    code, out, _ = run("encode", "--profile", EXAMPLE, "--message", "report", json.dumps(values))
    assert (code, out.strip()) == (0, FRAME)
    code, out, _ = run("encode", "--json", "--profile", EXAMPLE, "--message", "report", json.dumps(values))
    assert json.loads(out)["hex"] == FRAME.replace(" ", "")


def test_encode_for_modbus_gives_registers_or_writes(run: Any) -> None:
    values = '{"distance": null, "uptime": 20, "tilted": false, "mode": "manual", "firmware": "1.2", "interval": 300}'
    code, out, _ = run("encode", "--profile", EXAMPLE, "--message", "registers", values)
    assert code == 0
    assert json.loads(out) == {"input": {"100": [65535, 20, 0, 19712, 12590, 12800]}, "holding": {"200": [300]}}
    assert decoded(run, "--message", "registers", out)["values"] == json.loads(values)
    code, out, _ = run("encode", "--json", "--profile", EXAMPLE, "--message", "write_interval", '{"interval": 600}')
    assert code == 0
    assert json.loads(out)["writes"] == [{"function": 6, "table": "holding", "address": 200, "words": [600]}]


@pytest.mark.parametrize("message", ["report", "alarm", "registers", "set_interval"])
def test_drawn_values_come_back_and_the_seed_repeats_them(run: Any, message: str) -> None:
    words = ["encode", "--json", "--profile", EXAMPLE, "--message", message, "--sample", "--seed"]
    code, out, _ = run(*words, 7)
    assert code == 0
    assert run(*words, 7)[1] == out
    drawn = json.loads(out)
    frame = json.dumps(drawn["registers"]) if "registers" in drawn else drawn["hex"]
    found = decoded(run, "--message", message, frame)["values"]
    assert drawn["values"].items() <= found.items()  # counts and lengths are filled in


def test_values_that_do_not_fit_leave_with_1(run: Any) -> None:
    code, out, err = run("encode", "--profile", EXAMPLE, "--message", "set_interval", '{"every": "soon"}')
    assert (code, out) == (1, "")
    assert "every" in err
    code, out, _ = run("encode", "--json", "--profile", EXAMPLE, "--message", "set_interval", '{"colour": 1}')
    assert code == 1
    assert json.loads(out)["error"]["message"] == "set_interval"
    assert run("encode", "--profile", EXAMPLE, "--message", "set_interval", "[1]")[0] == 2
    assert run("encode", "--profile", EXAMPLE, "--message", "set_interval")[0] == 2
    assert run("encode", "--profile", EXAMPLE, "--message", "report", '{"readings": {}, "colour": 1}')[0] == 2


# --- check


def test_the_example_has_no_fault(run: Any) -> None:
    code, out, _ = run("check", "--json", EXAMPLE)
    (finding,) = json.loads(out)
    assert (code, finding["faults"]) == (0, [])


def test_check_takes_an_id_as_well(run: Any) -> None:
    code, out, _ = run("check", "--json", "generic/water-gauge")
    assert (code, [one["id"] for one in json.loads(out)]) == (0, ["generic/water-gauge"])
    assert run("check", "generic/water-gage")[0] == 2


def test_a_file_outside_the_catalogue_gets_advice_about_its_place(run: Any, tmp_path: Path) -> None:
    code, out, _ = run("check", "--json", edited(tmp_path))
    (finding,) = json.loads(out)
    assert (code, finding["faults"], finding["id"]) == (0, [], "acme/level-gauge")
    assert "in a catalogue this file must be acme/level-gauge.yaml" in finding["advice"]


def test_a_wrong_file_says_message_and_field_and_leaves_with_1(run: Any, tmp_path: Path) -> None:
    path = edited(tmp_path, ("metric: battery.voltage, default: 3.6}", "metric: battery.volts, default: 3.6}"))
    code, out, _ = run("check", path)
    assert code == 1
    assert out.startswith(f"FAULT {path}")
    assert "message report, field battery" in out
    assert "battery.volts" in out


def test_wrong_files_among_others_are_named_again_at_the_end(run: Any, tmp_path: Path) -> None:
    path = edited(tmp_path, ("kind: waterlogging_gauge", "kind: toaster"))
    code, out, _ = run("check", path, EXAMPLE)
    assert code == 1
    assert out.splitlines()[-2:] == ["2 checked, 1 with faults", f"  {path}"]


def test_a_wrong_vector_is_a_fault(run: Any, tmp_path: Path) -> None:
    path = edited(tmp_path, ("distance: 1200, battery: 3.61", "distance: 1201, battery: 3.61"))
    code, out, _ = run("check", path)
    assert code == 1
    assert "the long range counts centimetres" in out


def test_a_product_that_the_catalogue_claims_is_a_fault(run: Any, tmp_path: Path) -> None:
    path = edited(tmp_path, ("vendor: Acme", "vendor: generic"), ("model: level-gauge", "model: water-gauge"))
    code, out, _ = run("check", path)
    assert code == 1
    assert "claimed by generic/water-gauge" in out
    assert run("check", tmp_path / "nothing.yaml")[0] == 2


# --- doc and schema


def test_doc_writes_every_sheet(run: Any, tmp_path: Path) -> None:
    code, out, _ = run("doc", "--all", "--lang", "zh", "--out", tmp_path)
    written = sorted(tmp_path.glob("*/*.zh.md"))
    assert code == 0
    assert sorted(out.splitlines()) == [str(path) for path in written]
    assert len(written) == len(OFFERED)
    assert (tmp_path / "generic" / "water-gauge.zh.md") in written


def test_doc_prints_one_sheet_and_needs_to_know_which(run: Any) -> None:
    code, out, _ = run("doc", EXAMPLE)
    assert code == 0
    assert out.startswith("# Example level gauge\n")
    assert run("doc")[0] == 2
    assert run("doc", "--all", EXAMPLE)[0] == 2


def test_the_schema_is_json_schema(run: Any) -> None:
    code, out, _ = run("schema")
    assert code == 0
    assert "properties" in json.loads(out)


# --- the command line itself


def test_help_says_the_exit_codes(run: Any) -> None:
    for action in ("list", "show", "check", "decode", "encode", "doc", "schema"):
        code, out, _ = run(action, "--help")
        assert code == 0
        assert "exit codes:" in out


def test_other_commands_do_not_wait_for_codecs() -> None:
    program = (
        "import sys, citysense.cli.main as main; main.build_parser(); "
        "print([name for name in sys.modules if name.startswith('citysense.cli.profiles_')])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"


# --- columns


def test_one_long_cell_does_not_push_the_other_lines_aside() -> None:
    rows = [("a", "1", "x"), ("b", "2" * 60, "y")]
    assert aligned(("name", "value", "where"), rows) == ["name  value  where", "a     1      x", f"b     {'2' * 60}  y"]


def test_chinese_text_is_folded_by_its_width() -> None:
    assert wrapped("水位 水位 水位", 9) == ["水位 水位", "水位"]
    assert hanging("- ", "水位 水位 x", 8) == ["- 水位", "  水位 x"]
    assert folded(("名", "b"), [("水", "one two three four five six")], 28) == [
        ["名  b"],
        ["水  one two three four five", "    six"],
    ]


def test_notes_without_room_go_below_their_row() -> None:
    rows = [("wide" * 5, "one two three four"), ("x", "")]
    assert folded(("name", "notes"), rows, 30) == [
        ["name                  notes"],
        ["wide" * 5, "        one two three four"],
        ["x"],
    ]


# --- the page about the format


def test_every_key_of_the_format_stands_on_its_page() -> None:
    schema, page = profile_schema(), FORMAT_PAGE.read_text(encoding="utf-8")
    keys = set(schema["properties"]).union(*(one.get("properties", ()) for one in schema["$defs"].values()))
    assert len(keys) > 100
    assert sorted(key for key in keys if not re.search(rf"(?<!\w){re.escape(key)}(?!\w)", page)) == []


SNIPPETS = re.findall(r"```yaml\n((?:report|state):\n.*?)```", FORMAT_PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["binary", "tlv", "json", "senml", "modbus"])
def test_the_examples_of_the_format_page_are_valid(run: Any, tmp_path: Path, snippet: str) -> None:
    assert len(SNIPPETS) == 5
    head = "schema: 1\nid: acme/x\nkind: tag_reader\ntitle: X\nproduct: {vendor: Acme, model: X, source: page 1}\n"
    body = "transport: {mqtt: {}}\nreport_every: 1h\nvectors: []\nmessages:\n" + textwrap.indent(snippet, "  ")
    path = tmp_path / "x.yaml"
    path.write_text(head + body, encoding="utf-8")
    code, out, err = run("show", path)
    assert (code, err) == (0, "")
    assert "message " in out


def test_encode_simulates_reports_that_decode_and_move(run: Any) -> None:
    code, out, _ = run("encode", "--profile", EXAMPLE, "--message", "report", "--simulate", "5", "--json")
    assert code == 0
    reports = [json.loads(line) for line in out.splitlines()]
    assert len(reports) == 5
    assert reports[1]["elapsed"] > 0
    assert len({report["hex"] for report in reports}) > 1
    again = run("encode", "--profile", EXAMPLE, "--message", "report", "--simulate", "5", "--json")
    assert again[1] == out
    assert run("encode", "--profile", EXAMPLE, "--message", "report", "--simulate", "0")[0] == 2
    assert run("encode", "--profile", EXAMPLE, "--message", "report", "--simulate", "2", "{}")[0] == 2


def test_hex_that_was_typed_is_the_frame_whatever_other_messages_a_profile_has() -> None:
    """A profile whose commands travel as text once made every typed report a text."""
    seen = 0
    for profile in load_catalogue():
        for vector in profile.vectors:
            if vector.wire.hex and vector.message is not None:
                given = understand(vector.wire.hex.hex(" ").encode(), profile.file.messages.values())
                assert isinstance(given, Bytes)
                assert given.payload == vector.wire.hex
                seen += 1
    assert seen > 300


@pytest.mark.parametrize(
    "typed", ["80 00 01 01 11 07 d0 00 19 00 00 00 00 00 01 00 81", "800001011107d000190000000000010081"]
)
def test_a_report_of_a_profile_with_commands_in_text_decodes_as_it_was_typed(run: Any, typed: str) -> None:
    profile = next(p for p in load_catalogue() if p.kind == "waterlogging_gauge" and "df555" in p.id)
    code, out, _ = run("decode", "--profile", profile.id, "--json", typed)
    assert code == 0
    assert json.loads(out)["values"]["level"] == 2000


def test_a_command_in_text_decodes_as_text_and_as_the_hex_of_the_text(run: Any) -> None:
    profile = next(p for p in load_catalogue() if "df555" in p.id)
    for typed in ("80029999010481", "3830303239393939303130343831"):
        code, out, _ = run("decode", "--profile", profile.id, "--json", typed)
        assert code == 0
        assert json.loads(out)["values"]["upload_interval"] == 4


def test_a_terminal_without_chinese_still_gets_the_sheet() -> None:
    command = [sys.executable, "-c", "from citysense.cli.main import run; run()"]
    done = subprocess.run(
        [*command, "profiles", "doc", "generic/water-gauge", "--lang", "zh"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u79ef\\u6c34" in done.stdout
