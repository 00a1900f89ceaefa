"""The page: what must be on it, what must not, and what happens when files are missing, damaged or hostile."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stillhouse.errors import RunError
from stillhouse.report import page as page_module
from stillhouse.report import report, samples, training, words

FILES = {
    "recipe.yaml": "stillhouse run recipe.yaml",
    "environment.json": "stillhouse run recipe.yaml",
    "data/manifest.json": "stillhouse run recipe.yaml",
    "metrics.jsonl": "stillhouse run recipe.yaml",
    "control/metrics.jsonl": "stillhouse run recipe.yaml",
    "evaluation.json": "stillhouse evaluate runs/smol-24m",
    "samples.json": "stillhouse evaluate runs/smol-24m",
}


def written(run: Path) -> str:
    return report(run).read_text(encoding="utf-8")


def check_structure(tree: Any) -> None:
    idents = [n.attributes["id"] for n in tree.walk() if "id" in n.attributes]
    assert len(idents) == len(set(idents)), "an id is there twice"
    for node in tree.walk():
        for key in ("aria-labelledby", "aria-describedby"):
            assert set(node.attributes.get(key, "").split()) <= set(idents)
        if node.attributes.get("href", "").startswith("#"):
            assert node.attributes["href"][1:] in idents
    levels = [int(n.tag[1]) for n in tree.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), "a heading level is left out"
    for svg in tree.all("svg"):
        assert svg.children[0].tag == "title" and svg.children[0].text
        assert svg.attributes.get("role") == "img" or svg.attributes.get("aria-hidden") == "true"
    for figure in tree.all("figure"):
        assert len([n for n in figure.all("svg") if n.attributes.get("role") == "img"]) == 2
        (details,) = figure.all("details")
        (table,) = details.all("table")
        assert figure.all("figcaption") and table.all("caption") and len(table.all("tr")) > 1
    for table in tree.all("table"):
        columns = len(table.all("thead")[0].all("th"))
        assert columns and all(n.attributes.get("scope") for n in table.all("th"))
        assert all(len(row.all("th", "td")) == columns for row in table.all("tr"))


def check_harmless(text: str, tree: Any) -> None:
    assert not tree.all("script", "iframe", "object", "embed", "img", "form", "base", "foreignObject")
    for node in tree.walk():
        for name, value in node.attributes.items():
            assert not name.startswith("on"), (node.tag, name)
            assert name not in ("src", "srcset", "xlink:href", "action", "formaction", "style", "background"), name
            if name == "href":
                assert value.startswith("#") or value == "data:,"
    style = "".join(n.text for n in tree.all("style"))
    assert "url(" not in style and "@import" not in style and "@font-face" not in style
    (policy,) = [n for n in tree.all("meta") if n.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'")
    hidden = re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]", text
    )
    assert hidden is None, repr(text[max(0, hidden.start() - 40) : hidden.start() + 40])


def test_the_page_is_well_formed_and_harmless(page: str, html: ModuleType) -> None:
    tree = html.parse(page)
    check_structure(tree)
    check_harmless(page, tree)
    assert page.startswith("<!doctype html>")
    assert tree.all("html")[0].attributes["lang"] == "en"
    assert len(page.encode()) < 2_000_000


def test_the_header_says_it_in_ten_seconds(page: str, html: ModuleType) -> None:
    tree = html.parse(page)
    (header,) = tree.all("header")
    text = " ".join(header.text.replace("\u00a0", " ").split())
    for said in (
        "smol-24m distilled from SmolLM2-135M-Instruct",
        "INCONCLUSIVE",
        "2 of 3 gates hold",
        "2 pass",
        "2.11× smaller",
        "134.5M → 63.7M parameters",
        "91.6 to 95.0 %",
        "best guess 93.3",
        "0.07 to 0.11 bits per byte",
        "3.30 to 4.50 pp",
        "0.29 to 0.33 nats",
        "43 min",
    ):
        assert said in text, said
    (verdict,) = header.of_class("verdict")
    assert verdict.of_class("icon")[0].text == "?", "never by colour alone"


def test_every_finding_is_told_whole(page: str, html: ModuleType, example: ModuleType) -> None:
    tree = html.parse(page)
    for i, found in enumerate(example.evaluation()["findings"], 1):
        card = tree.by_id(f"finding-{i}")
        for text in (found["question"], found["verdict"], found["sentence"], found["reason"], *found["limits"]):
            assert text in card.text
        for one in found["estimates"]:
            (row,) = [
                r
                for r in card.of_class("estimates")[0].all("tr") + card.of_class("estimates")[-1].all("tr")
                if one["label"] in [n.text for n in r.all("bdi")]
                and (one["role"] == "student" or one["role"] in r.text)
                and not (one["role"] == "student" and r.of_class("role"))
            ][:1]
            assert words.number(one["value"]) in row.text and words.interval(one["low"], one["high"]) in row.text
        titles = [f.text.strip() for f in card.all("figcaption")]
        told = [c["title"] for c in found["charts"] if c["kind"] != "ladder"]
        assert titles == told
        assert "How to read this" in card.text


def test_the_ladder_stands_at_a_glance_and_only_there(page: str, html: ModuleType) -> None:
    tree = html.parse(page)
    title = "From the floor to the teacher: bits per byte, lower is better"
    assert [n.text for n in tree.all("figcaption")].count(title) == 1
    assert title in tree.by_id("glance").text


def test_a_ladder_is_made_of_estimates_where_no_chart_is(run: Path, example: ModuleType, html: ModuleType) -> None:
    told = example.evaluation()
    for found in told["findings"]:
        found["charts"] = []
    example.put_json(run / "evaluation.json", told)
    (figure,) = html.parse(written(run)).by_id("glance").all("figure")
    assert all(role in figure.text for role in ("floor", "before", "control", "student", "teacher"))


def test_curves_of_student_and_control_share_a_chart(page: str, html: ModuleType, example: ModuleType) -> None:
    figures = html.parse(page).by_id("training").all("figure")
    by_title = {f.all("figcaption")[0].text: f for f in figures}
    train = by_title["Loss while training, term by term"]
    names = {r.all("th", "td")[0].text for r in train.all("tr")[1:]}
    assert names == {
        "student total",
        "student forward kl",
        "student cross entropy",
        "student hidden mse",
        "control cross entropy",
    }
    held = by_title["Loss on held-out text"]
    rows = [[c.text for c in r.all("th", "td")] for r in held.all("tr")[1:]]
    for role in ("student", "control"):
        told = [(str(m["step"]), m["validation"]["cross_entropy"]) for m in example.metrics(role) if "validation" in m]
        assert [(r[1], r[2]) for r in rows if r[0] == role] == [(s, words.number(v)) for s, v in told]


def test_long_curves_are_means_of_stretches() -> None:
    log = [{"step": i, "loss": float(i % 7)} for i in range(1, 5001)]
    points = training.curve(log, "loss")
    assert len(points) <= 160
    total = sum(float(i % 7) for i in range(1, 5001))
    sizes = [int(b - a) for a, b in zip([0, *[p.x for p in points]], [p.x for p in points], strict=False)]  # type: ignore
    assert sum((p.y or 0) * n for p, n in zip(points, sizes, strict=True)) == pytest.approx(total)


def test_samples_stand_side_by_side(page: str, html: ModuleType, example: ModuleType) -> None:
    cards = html.parse(page).of_class("sample")
    assert len(cards) == len(example.SAMPLES)
    for card, sample in zip(cards, example.SAMPLES, strict=True):
        assert sample["prompt"] in card.all("h3")[0].text
        said = card.of_class("said")
        assert [s.all("bdi")[0].text for s in said] == ["teacher", "before", "student", "control"]
        for cell in said:
            role = cell.all("bdi")[0].text
            (box,) = cell.of_class("model-text")
            assert box.text == sample["texts"][role].removeprefix(" ")
            assert box.attributes["dir"] == "auto"
            assert {"eos": "ended by itself", "length": "cut at"}[sample["stop"][role]] in cell.text


def test_repetition_from_its_definition() -> None:
    assert samples.repeated(["a b"]) is None
    assert samples.repeated(["a b c d"]) == 0.0
    assert samples.repeated(["a a a a a", "b c d"]) == pytest.approx(2 / 4)


def test_seconds_may_be_of_a_step_or_of_all_steps_so_far() -> None:
    assert training.spent([{"seconds": 2.0}, {"seconds": 3.0}, {"seconds": 1.0}, {"validation": {}}]) == 6.0
    assert training.spent([{"seconds": 2.0}, {"seconds": 5.0}, {"seconds": 6.0}]) == 6.0
    assert training.spent([{"step": 1}]) is None


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two. Three.", "One."),
        ("It is 1.22 bits [1.19, 1.25]. |gap| is 3.", "It is 1.22 bits [1.19, 1.25]."),
        ("No end", "No end"),
        ("Of e.g. this. Über.", "Of e.g. this."),
        ("", ""),
    ],
)
def test_first_sentence(text: str, first: str) -> None:
    lead, rest = page_module.first_sentence(text)
    assert lead == first
    assert f"{lead} {rest}".strip() == text


def test_details_are_there(page: str, html: ModuleType, example: ModuleType) -> None:
    tree = html.parse(page)
    made = tree.by_id("made").text
    assert example.RECIPE in made
    for said in (
        "stillhouse run recipe.yaml",
        "train.tokens",
        "2,461,204",
        "transformers",
        "5.23.0",
        "sources.2.documents",
    ):
        assert said in made
    assert "downstream tasks" in tree.by_id("unmeasured").text
    assert "control/metrics.jsonl" in tree.by_id("files").text


def test_the_same_files_give_the_same_bytes(run: Path) -> None:
    first = written(run)
    assert written(run) == first
    assert str(run.parent) not in first, "a path of this machine"
    assert not list(run.rglob("*.tmp"))


def test_only_what_it_may_write_is_written(run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    report(run)
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert set(after) - set(before) == {run / "report.html", run / "report.json", run / "student" / "README.md"}
    assert all(after[p] == content for p, content in before.items())


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such run folder"):
        report(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_said_with_the_command_that_makes_it(
    run: Path, name: str, html: ModuleType, example: ModuleType
) -> None:
    (run / name).unlink()
    if name == "environment.json":  # the evaluation's own would stand in for it
        told = example.evaluation()
        del told["environment"]
        example.put_json(run / "evaluation.json", told)
    tree = html.parse(written(run))
    check_structure(tree)
    notes = [n.text for n in tree.of_class("missing")]
    assert notes
    assert all(f"{name} is not there. Make it with {FILES[name]}" in " ".join(n.split()) for n in notes)


def test_an_empty_folder_still_has_a_page(tmp_path: Path, html: ModuleType) -> None:
    (tmp_path / "smol-24m").mkdir()
    text = written(tmp_path / "smol-24m")
    tree = html.parse(text)
    check_structure(tree)
    check_harmless(text, tree)
    assert "nothing is known yet" in tree.all("header")[0].text
    notes = " ".join(n.text for n in tree.of_class("missing"))
    assert all(name in notes for name in FILES)
    assert not (tmp_path / "smol-24m" / "student").exists()


DAMAGES: dict[str, bytes] = {
    "cut off": b'{"findings": [{"name": "perf',
    "a list": b"[1, 2, 3]",
    "null": b"null",
    "not text": bytes(range(256)),
    "deep": b"[" * 5_000,
    "nan": b'{"a": NaN, "findings": [{"estimates": [{"value": NaN, "low": Infinity}], "charts": [null, {}]}, 3]}',
    "strange": b'{"findings": {"a": 1}, "models": [1], "seconds": 3, "counts": "x", "texts": [], "verdict": 3, "facts": 3}',
    "nulls": b'{"findings": null, "models": {"student": null, "teacher": {"parameters": null}}, "run": null, "objective": null}',
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_told_and_nothing_breaks(run: Path, name: str, damage: str, html: ModuleType) -> None:
    (run / name).write_bytes(DAMAGES[damage])
    text = written(run)
    tree = html.parse(text)
    check_structure(tree)
    check_harmless(text, tree)
    if name != "recipe.yaml":  # which is shown as it is
        assert not re.search(r"\b(nan|NaN|inf|Infinity|None|undefined)\b", tree.all("body")[0].text)


def test_the_last_line_of_an_interrupted_run_is_skipped_and_noted(run: Path, html: ModuleType) -> None:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    cut = "\n".join([*lines[:60], lines[60][:20]])
    (run / "metrics.jsonl").write_text(cut, encoding="utf-8")
    tree = html.parse(written(run))
    assert "metrics.jsonl: 1 unreadable line skipped" in tree.by_id("unmeasured").text
    assert tree.by_id("training").all("figure")


def test_nan_and_null_numbers_are_dashes(run: Path, example: ModuleType, html: ModuleType) -> None:
    told = json.loads(json.dumps(example.evaluation()))
    for found in told["findings"]:
        for one in found["estimates"]:
            one["value"], one["low"], one["high"] = float("nan"), None, float("-inf")
        for chart in found["charts"]:
            for series in chart["series"]:
                for point in series["points"][::2]:
                    point["y"] = float("nan")
    example.put_json(run / "evaluation.json", told)
    log = example.metrics("student")
    for line in log[::3]:
        line["forward_kl"] = float("nan")
        line["cross_entropy"] = None
    example.put_lines(run / "metrics.jsonl", log)
    text = written(run)
    tree = html.parse(text)
    check_structure(tree)
    assert not re.search(r"\b(nan|inf|None)\b", tree.all("body")[0].text)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)
    assert "–" in tree.by_id("finding-1").of_class("estimates")[0].text


def test_unknown_verdicts_roles_and_charts_are_shown_as_they_came(
    run: Path, example: ModuleType, html: ModuleType
) -> None:
    told = example.evaluation()
    told["verdict"] = "perhaps"
    told["findings"][0]["charts"][0]["kind"] = "pie"
    told["findings"][0]["estimates"][0]["role"] = "cousin"
    example.put_json(run / "evaluation.json", told)
    sample = {"prompt": "p", "texts": {"student": "s", "cousin": "c"}, "stop": {"student": "tired"}}
    example.put_json(run / "samples.json", [sample])
    tree = html.parse(written(run))
    assert "PERHAPS" in tree.all("header")[0].text
    assert "cousin" in tree.by_id("finding-1").text and "cousin" in tree.by_id("samples").text


def test_without_a_control_the_page_says_what_is_not_known(run: Path, example: ModuleType, html: ModuleType) -> None:
    told = example.evaluation()
    del told["models"]["control"]
    told["findings"].pop()
    example.put_json(run / "evaluation.json", told)
    shutil.rmtree(run / "control")
    tree = html.parse(written(run))
    assert "set evaluate.control to true" in tree.by_id("unmeasured").text
    assert "benefit is not among evaluate.measures" in tree.all("header")[0].text


def test_hostile_text_is_shown_and_does_nothing(hostile: Path, html: ModuleType, example: ModuleType) -> None:
    text = written(hostile)
    tree = html.parse(text)
    check_structure(tree)
    check_harmless(text, tree)
    assert len(text.encode()) < 2_000_000
    cards = tree.of_class("sample")
    assert len(cards) == len(example.NASTY)
    for card, nasty in zip(cards, example.NASTY.values(), strict=True):
        for cell in card.of_class("said"):
            boxes = cell.of_class("model-text")
            # the prompt is cut off the front of a text that begins with it: what remains here is nothing
            assert boxes == [] and "wrote nothing" in cell.text
        shown = card.all("h3")[0].text
        assert words.visible(nasty[:3000]) in shown or (not nasty and "empty prompt" in shown)
    assert "49" not in tree.by_id("samples").text, "a template inside a text was run"


def test_hostile_texts_as_answers(run: Path, html: ModuleType, example: ModuleType) -> None:
    samples = [{"prompt": "p", "texts": {"student": t}, "stop": {"student": t}} for t in example.NASTY.values()]
    example.put_json(run / "samples.json", samples)
    text = written(run)
    tree = html.parse(text)
    check_structure(tree)
    check_harmless(text, tree)
    for card, nasty in zip(tree.of_class("sample"), example.NASTY.values(), strict=True):
        (cell,) = card.of_class("said")
        boxes = [b.text for b in cell.of_class("model-text")]
        assert boxes == ([words.visible(nasty[:3000])] if nasty else [])
        left_out = max(0, len(nasty) - 3000)
        assert (f"and {left_out:,} more characters" in cell.text) == bool(left_out)


def test_paths_of_a_machine_are_shortened() -> None:
    assert page_module.private("/home/jane/models/smol.gguf") == "…/smol.gguf"
    assert page_module.private("path /srv/a/b.jsonl, field text") == "path …/b.jsonl, field text"
    assert page_module.private(r"C:\Users\jane\smol.gguf") == "…/smol.gguf"
    for kept in ("data/a.jsonl", "owner/name", "https://example.org/a/b", "1/2", "and/or", "/"):
        assert page_module.private(kept) == kept


def test_style_is_fit_for_phones_dark_and_paper(page: str, html: ModuleType) -> None:
    style = "".join(n.text for n in html.parse(page).all("style"))
    assert style.count("{") == style.count("}")
    for needed in ("prefers-color-scheme:dark", "@media print", "@page{size:A4", "max-width:760px", ":focus-visible"):
        assert needed in style
    for size in re.findall(r"font-size:([\d.]+)(px|rem|em)", style):
        assert float(size[0]) * {"px": 1, "rem": 15, "em": 13}[size[1]] >= 11
    used = set(re.findall(r"var\(--([\w-]+)\)", style))
    defined = set(re.findall(r"--([\w-]+):", style))
    assert used <= defined
