"""Who may publish and subscribe where at the MQTT door, and how filters match topics."""

from __future__ import annotations

import pytest

from citysense_gateway.mqtt.topics import Origin, granted_qos, is_valid, matches, origin_of


def vendor_rights(device: str, topic: str) -> str | None:
    return "report" if topic == f"wl/{device}/up" else None


def speaks_for(concentrator: str, child: str) -> bool:
    return (concentrator, child) == ("gauge-1", "pole-9")


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("cs/v1/gauge-1/up/report", "report"),
        ("wl/gauge-1/up", "report"),
        ("cs/v1/gauge-2/up/report", None),
        ("cs/v1/gauge-1/up/", None),
        ("cs/v1/gauge-1/up/a/b", None),
        ("cs/v1/gauge-1/up", None),
        ("cs/v1/gauge-1/down/open", None),
        ("cs/v1/gauge-1/ack", None),
        ("/cs/v1/gauge-1/up/report", None),
        ("cs/v1/gauge-10/up/report", None),
        ("wl/gauge-2/up", None),
        ("$SYS/broker/version", None),
    ],
)
def test_a_device_publishes_only_where_it_stands_itself(topic: str, message: str | None) -> None:
    expected = None if message is None else Origin("gauge-1", message)
    assert origin_of("gauge-1", topic, vendor_rights, speaks_for) == expected


@pytest.mark.parametrize(
    ("topic", "origin"),
    [
        ("cs/v1/gauge-1/child/pole-9/up/state", Origin("pole-9", "state", "gauge-1")),
        ("cs/v1/gauge-1/child/pole-8/up/state", None),
        ("cs/v1/gauge-2/child/pole-9/up/state", None),
        ("cs/v1/gauge-1/child/pole-9/up/", None),
        ("cs/v1/gauge-1/child/pole-9/up/a/b", None),
        ("cs/v1/gauge-1/child/pole-9/ack", None),
        ("cs/v1/gauge-1/child/+/up/state", None),
        ("cs/v1/pole-9/up/state", None),
    ],
)
def test_a_concentrator_publishes_for_its_own_children_only(topic: str, origin: Origin | None) -> None:
    assert origin_of("gauge-1", topic, vendor_rights, lambda a, b: b == "pole-9" and a == "gauge-1") == origin


def test_a_vendor_template_cannot_open_the_native_tree() -> None:
    assert origin_of("gauge-1", "cs/v1/gauge-2/up/report", lambda device, topic: "report", speaks_for) is None


@pytest.mark.parametrize(
    ("topic_filter", "wanted", "granted"),
    [
        ("cs/v1/gauge-1/ack", 1, 0),
        ("cs/v1/gauge-1/down/open", 2, 1),
        ("cs/v1/gauge-1/down/+", 0, 0),
        ("cs/v1/gauge-1/down/#", 1, 1),
        ("cs/v1/gauge-1/#", 1, None),
        ("cs/v1/gauge-1/+", 1, None),
        ("cs/v1/+/ack", 1, None),
        ("cs/v1/gauge-2/ack", 1, None),
        ("cs/v1/gauge-1/down/+/x", 1, None),
        ("cs/v1/gauge-1/down/", 1, None),
        ("$share/g/cs/v1/gauge-1/down/#", 1, None),
        ("#", 0, None),
        ("$SYS/#", 0, None),
        ("wl/gauge-1/up", 0, None),
        ("cs/v1/gauge-1/child/pole-9/ack", 1, 0),
        ("cs/v1/gauge-1/child/+/ack", 1, 0),
        ("cs/v1/gauge-1/child/pole-9/down/#", 2, 1),
        ("cs/v1/gauge-1/child/+/down/+", 1, 1),
        ("cs/v1/gauge-1/child/pole-8/down/+", 1, None),
        ("cs/v1/gauge-1/child/pole-9/up/+", 1, None),
        ("cs/v1/gauge-1/child/#", 1, None),
        ("cs/v1/gauge-2/child/pole-9/down/+", 1, None),
    ],
)
def test_a_device_subscribes_only_to_its_own_downlink(topic_filter: str, wanted: int, granted: int | None) -> None:
    assert granted_qos("gauge-1", topic_filter, wanted, speaks_for) == granted


@pytest.mark.parametrize(
    ("topic_filter", "valid"),
    [
        ("a/+/b", True),
        ("+", True),
        ("#", True),
        ("a/#", True),
        ("/", True),
        ("a/#/b", False),
        ("a#", False),
        ("a/b+", False),
        ("a+/b", False),
    ],
)
def test_wildcards_stand_for_whole_levels(topic_filter: str, valid: bool) -> None:
    assert is_valid(topic_filter) is valid


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("+/b/#", "a/b", True),
        ("a/b/#", "a", False),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected
