from __future__ import annotations

import unicodedata

import pytest
import yaml

from stillhouse.report import words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (True, "–"),
        ("3", "–"),
        (10**400, "–"),
        (0, "0"),
        (0.0, "0.00"),
        (-0.0, "0.00"),
        (0.004, "<0.01"),
        (-0.004, "0.00"),
        (0.005, "0.01"),
        (3.14159, "3.14"),
        (-2.5, "−2.50"),
        (9.996, "10.0"),
        (93.26, "93.3"),
        (99.96, "100"),
        (1234.5, "1,234"),
        (19874, "19,874"),
    ],
)
def test_number(value: object, shown: str) -> None:
    assert words.number(value) == shown


def test_no_number_has_more_than_two_decimals_and_none_is_far_off() -> None:
    for i in range(-4000, 4000):
        value = i * 0.0377 + 0.00113
        shown = words.number(value).replace("−", "-").replace(",", "")
        if shown.startswith("<"):
            assert 0 < value < 0.005
            continue
        assert len(shown.partition(".")[2]) <= 2
        assert abs(float(shown) - value) <= max(0.0051, abs(value) * 0.0051)


@pytest.mark.parametrize(
    ("low", "high", "unit", "shown"),
    [
        (90.0, 96.0, "%", "90.0 to 96.0\u00a0%"),
        (0.9, 0.96, "share", "90.0 to 96.0\u00a0%"),
        (1.5, 2.0, "×", "1.50 to 2.00×"),
        (None, 4.0, "", "up to 4.00"),
        (4.0, None, "nats", "4.00\u00a0nats or more"),
        (None, float("nan"), "%", ""),
    ],
)
def test_interval(low: float | None, high: float | None, unit: str, shown: str) -> None:
    assert words.interval(low, high, unit) == shown


def test_sizes_and_times() -> None:
    assert words.magnitude(134_515_008) == "134.5M"
    assert words.magnitude(999) == "999"
    assert words.bytes_of(538_060_032) == "538\u00a0MB"
    assert words.bytes_of(12) == "12\u00a0bytes"
    assert words.duration(4.2) == "4.2\u00a0s"
    assert words.duration(59.96) == "1\u00a0min"
    assert words.duration(3599) == "1\u00a0h\u00a000\u00a0min"
    assert words.duration(3900) == "1\u00a0h\u00a005\u00a0min"
    assert {words.magnitude(None), words.bytes_of(float("nan")), words.duration(-1)} == {"–"}


def test_all_of_unicode_becomes_visible() -> None:
    for code in (*range(0x32000), *range(0x32000, 0x110000, 61), *range(0xE0000, 0xE0200)):  # planes 4 to 13 are empty
        shown = words.visible(chr(code))
        assert shown
        if chr(code) in "\n\t\u200c\u200d":
            assert shown == chr(code)
            continue
        for char in shown:
            assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp"), hex(code)
            assert unicodedata.bidirectional(char) not in (
                "LRE",
                "RLE",
                "LRO",
                "RLO",
                "PDF",
                "LRI",
                "RLI",
                "FSI",
                "PDI",
            )


def test_visible_keeps_what_can_be_seen_and_encodes() -> None:
    for text in ("plain", "Füße, naïve, 東京", "שלום", "👩\u200d👩\u200d👧", "a\tb\nc", "x̂"):
        assert words.visible(text) == text
    assert words.visible("\x00\x1b\x7f\r") == "␀␛␡␍"
    assert words.visible("a\u202eb") == "a⟨U+202E⟩b"
    assert words.visible("\ud83d").encode("utf-8")


def test_piled_marks_are_cut() -> None:
    shown = words.visible("e" + "\u0301" * 300 + "f")
    assert shown.count("\u0301") == 6
    assert shown.endswith("⟨more marks⟩f")
    assert words.visible("e\u0301" * 300) == "e\u0301" * 300


def test_fence_cannot_be_closed_from_inside() -> None:
    for inside in ("```", "````\n# heading", "`" * 9, "plain", ""):
        lines = words.fence(inside).split("\n")
        marks = lines[0].removesuffix("text")
        assert set(marks) == {"`"} and len(marks) >= 3 and lines[-1] == marks
        assert all(not line.strip().startswith(marks) for line in lines[1:-1])


@pytest.mark.parametrize(
    "text",
    ["*b* _i_ `c`", "<script>", "[x](y) ![z](w)", "a | b", "# h", "&amp;", "~~s~~", "$x$", "@name", "back\\slash"],
)
def test_markdown_escape_leaves_no_live_sign(text: str) -> None:
    shown = words.escape_markdown(text)
    assert shown.replace("\\", "") == text.replace("\\", "")
    place = 0
    while place < len(shown):  # every special sign has its backslash before it
        if shown[place] == "\\":
            place += 2
            continue
        assert shown[place] not in "*_`<>[]|#&~$@!"
        place += 1


def test_markdown_escape_of_starts_links_and_lines() -> None:
    assert words.escape_markdown("- item") == "\\- item"
    assert words.escape_markdown("1. item") == "1\\. item"
    assert words.escape_markdown("1.22 bits") == "1.22 bits"
    assert "\n" not in words.escape_markdown("a\n\n# b\r\nc")
    assert "https://" not in words.escape_markdown("see https://example.org")
    assert "www." not in words.escape_markdown("see www.example.org")


def test_plain_values_are_cells() -> None:
    values = [None, True, 3, 2.5, float("nan"), "x", [1, "a", None], {"a": {"b": 1}}, [], {}, list(range(99))]
    for value in values:
        assert isinstance(words.plain(value), str) and words.plain(value)
    assert "99 in all" in words.plain(list(range(99)))
    assert yaml.safe_load(words.plain(3)) == 3
