"""What the filters took out, on the page."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from stillhouse.report import model_card, report


def test_each_filter_is_told_with_its_examples(page: str, html: ModuleType) -> None:
    made = html.parse(page).by_id("made")
    (table,) = [t for t in made.all("table") if "What each filter took out" in t.all("caption")[0].text]
    rows = [[cell.text for cell in row.all("th", "td")] for row in table.all("tbody")[0].all("tr")]
    assert rows == [
        ["length", "least: 20", "1,882", "7 (0.4%)", "5%: 41 words, 50%: 310 words, 95%: 1,204 words"],
        [
            "contamination",
            "files: …/boolq.jsonl",
            "1,875",
            "24 (1.3%)",
            "boolq.jsonl: texts: 3270, documents removed: 24",
        ],
    ]
    (shown,) = [d for d in made.all("details") if "Some of what" in d.text]
    assert "length" in shown.all("summary")[0].text
    assert "record 17: 3 words, at least 20 words is kept" in " ".join(shown.text.split())
    assert shown.of_class("model-text")[0].text == "To be continued."


def test_diversity_stands_side_by_side(page: str, html: ModuleType) -> None:
    made = html.parse(page).by_id("made")
    (table,) = [t for t in made.all("table") if "How diverse" in t.all("caption")[0].text]
    rows = [[cell.text for cell in row.all("th", "td")] for row in table.all("tbody")[0].all("tr")]
    assert rows[0] == ["distinct-1", "0.2114", "0.2142"] and rows[3] == ["self-bleu", "0.2873", "0.2511"]


def test_facts_are_not_told_twice(page: str, html: ModuleType) -> None:
    (table,) = [t for t in html.parse(page).all("table") if t.all("caption")[0].text == "What was learned from"]
    names = [row.all("th")[0].text for row in table.all("tbody")[0].all("tr")]
    assert "filtered" in names and not any(name.startswith(("filters", "diversity")) for name in names)


def test_no_filter_no_card(run: Path, example: ModuleType, html: ModuleType) -> None:
    example.put_json(run / "data" / "manifest.json", {"facts": {"documents": 3}})
    assert "What the filters took out" not in html.parse(report(run).read_text(encoding="utf-8")).text


def test_what_was_taken_out_is_not_in_the_model_card(run: Path) -> None:
    text = model_card(run)
    assert "documents_read" in text.replace("\\", "")
    assert "To be continued" not in text and "contamination" not in text
