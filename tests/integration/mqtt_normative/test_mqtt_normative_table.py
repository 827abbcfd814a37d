"""Holds the table of statements to the tests, and the page docs/mqtt.md to both."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "mqtt.md"
BEGIN, END = "<!-- statements: begin -->", "<!-- statements: end -->"
# Numbered statements of the two specifications, by appendix B. Of 5.0 the numbers 4.2-1 and 3.2.2-8 are printed wrongly in
# the text; the appendix has 4.2.0-1 and 3.2.2-8.
NUMBERS = {"mqtt5": 251, "mqtt311": 141}
TITLES = {"mqtt5": "MQTT 5.0", "mqtt311": "MQTT 3.1.1"}


def table() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HERE / "statements.yaml").read_text(encoding="utf-8"))
    return found


def in_order(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number.replace("-", ".").split("."))


def rows(version: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """(state, what it says, why) of every statement that concerns the door."""
    found = {number: ("applies", says, "") for number, says in version["applies"].items()}
    for state in ("deviates", "not_applicable"):
        for group in version.get(state, []):
            for number, says in group["statements"].items():
                assert number not in found, f"{number} stands twice"
                found[number] = (state, says, group["why"].strip())
    return dict(sorted(found.items(), key=lambda row: in_order(row[0])))


def marked() -> dict[str, dict[str, list[str]]]:
    """Tests by statement, from the markers in this folder."""
    found: dict[str, dict[str, list[str]]] = {version: {} for version in NUMBERS}
    for path in sorted(HERE.glob("test_mqtt_normative_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.AsyncFunctionDef):
                continue
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in found:
                    for number in call.args:
                        assert isinstance(number, ast.Constant)
                        assert isinstance(number.value, str)
                        found[call.func.attr].setdefault(number.value, []).append(node.name)
    return found


def test_every_number_stands_once() -> None:
    for name, version in table().items():
        concerned = rows(version)
        assert not concerned.keys() & set(version["client"])
        assert len(concerned) + len(set(version["client"])) == NUMBERS[name]


def test_every_statement_that_applies_has_a_test_and_every_marker_a_statement() -> None:
    tests = marked()
    for name, version in table().items():
        for number, (state, _, _) in rows(version).items():
            if state == "applies":
                assert number in tests[name], f"{name} {number}: no test shows it"
            elif state == "not_applicable":
                assert number not in tests[name], f"{name} {number}: shown by a test, so it applies"
        unknown = tests[name].keys() - rows(version).keys()
        assert not unknown, f"{name}: markers without a row: {sorted(unknown)}"


def test_more_than_a_hundred_statements_are_shown_and_every_deviation_has_its_reason() -> None:
    shown = sum(len(numbers) for numbers in marked().values())
    assert shown > 250
    for version in table().values():
        for state, _, why in rows(version).values():
            assert state == "applies" or len(why) > 20


def generated() -> str:
    """The tables of the page, in Markdown."""
    tests = marked()
    lines: list[str] = []
    for name, version in table().items():
        found = rows(version)
        count = {state: sum(row[0] == state for row in found.values()) for state in ("applies", "deviates")}
        lines += [
            f"### {TITLES[name]}",
            "",
            f"{count['applies']} statements apply and are tested, {count['deviates']} are not kept, "
            f"{len(found) - sum(count.values())} concern what is not offered, "
            f"{len(version['client'])} bind only clients and are left out.",
            "",
            "| Statement | Says | Shown by, or why not |",
            "|---|---|---|",
        ]
        for number, (state, says, why) in found.items():
            names = ", ".join(f"`{test.removeprefix('test_')}`" for test in sorted(set(tests[name].get(number, []))))
            last = {
                "applies": names,
                "deviates": f"**not kept:** {why} {names}",
                "not_applicable": f"not offered: {why}",
            }
            lines.append(f"| {number} | {says} | {last[state].strip()} |")
        lines.append("")
    return "\n".join(lines)


def test_the_page_shows_the_table_as_it_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()
    assert shown == generated().strip(), f"renew it: python {Path(__file__).name}"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    PAGE.write_text(f"{head}\n\n{generated()}\n{tail}", encoding="utf-8")
