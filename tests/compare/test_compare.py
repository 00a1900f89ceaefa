"""Several runs side by side: quality by hand, fronts by brute force, what was not measured said; the page and its JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from stillhouse.cli import main
from stillhouse.compare import COSTS, Comparison, Cost, compare
from stillhouse.compare.page import render
from stillhouse.compare.terminal import show
from stillhouse.errors import RunError


def estimate(label: str, role: str, value: float, low: float, high: float, unit: str) -> dict[str, Any]:
    return {"label": label, "role": role, "value": value, "low": low, "high": high, "unit": unit}


def make_run(
    folder: Path,
    name: str,
    *,
    kept: float = 80.0,
    teacher: str = "big",
    exports: dict[str, tuple[float, float, float] | None] | None = None,
    timed: dict[str, float] | None = None,
    joules: dict[str, float] | None = None,
    threads: int = 1,
) -> Path:
    """A run whose floor is at 6 nats a token and whose teacher is at 2: 1 nat is a quarter of the teacher's skill."""
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "model.safetensors").write_bytes(bytes(20_000))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"name": name, "teacher": teacher}), encoding="utf-8")
    estimates = [
        estimate("nats per token", "floor", 6.0, 5.9, 6.1, "nats"),
        estimate("nats per token", "teacher", 2.0, 1.9, 2.1, "nats"),
        estimate("skill kept above the floor", "student", kept, kept - 3, kept + 3, "%"),
    ]
    findings = [{"name": "performance", "verdict": "PASS", "estimates": estimates}]
    models = {"teacher": {"name": teacher, "bytes": 100_000}, "student": {"name": name, "bytes": 20_000}}
    content = {"findings": findings, "models": models}
    (folder / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    records = []
    for index, (artefact, lost) in enumerate((exports or {}).items()):
        record: dict[str, Any] = {"name": artefact, "format": "gguf", "path": artefact, "bytes": 10_000 - 1000 * index}
        if lost is None:
            record["untested"] = "llama_cpp is not installed"
        else:
            record["difference"] = {"loss": lost[0], "low": lost[1], "high": lost[2], "agreement": 0.9}
        records.append(record)
    (folder / "exports.json").write_text(json.dumps(records), encoding="utf-8")
    if timed:
        rows = [
            {"name": n, "prefill": [4 * s] * 9, "steps": [s] * 9, "peak": 1e6,
             "energy": {"joules": (joules or {}).get(n), "source": "measured: RAPL"} if joules else None}
            for n, s in timed.items()
        ]  # fmt: skip
        machine = {"cpu": "a", "threads": threads, "system": "b"}
        (folder / "profile.json").write_text(json.dumps({"models": rows, "machine": machine}), encoding="utf-8")
    return folder


def test_a_classifiers_file_keeps_what_its_right_answers_say(tmp_path: Path) -> None:
    run = make_run(tmp_path / "reader", "reader", exports={"onnx-int8": (0.1, 0.0, 0.2)})
    (run / "recipe.yaml").write_text(
        yaml.safe_dump(
            {"name": "reader", "teacher": "big", "data": {"sources": [{"format": {"classes": ["no", "yes"]}}]}}
        ),
        encoding="utf-8",
    )
    estimates = [
        estimate("accuracy", "floor", 50.0, 48.0, 52.0, "%"),
        estimate("accuracy", "teacher", 90.0, 88.0, 92.0, "%"),
        estimate("accuracy kept above the floor", "student", 95.0, 93.0, 97.0, "%"),
    ]
    content = {"findings": [{"name": "accuracy", "verdict": "PASS", "estimates": estimates}]}
    (run / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    records = json.loads((run / "exports.json").read_text(encoding="utf-8"))
    records[0]["difference"]["right"] = {"value": -0.01, "low": -0.02, "high": 0.0}
    (run / "exports.json").write_text(json.dumps(records), encoding="utf-8")
    kept = by_label(compare([run]))["reader onnx-int8"].kept
    # one point of a hundred answers is 2.5 % of the forty points between guessing and the teacher
    assert kept.value == pytest.approx(95.0 - 2.5)
    assert kept.low == pytest.approx(92.5 - (2.0**2 + 2.5**2) ** 0.5)
    assert kept.high == pytest.approx(92.5 + (2.0**2 + 2.5**2) ** 0.5)


def by_label(found: Comparison) -> dict[str, Any]:
    return {entry.label: entry for entry in found.entries}


def test_a_file_keeps_what_the_student_keeps_less_what_it_loses(tmp_path: Path):
    run = make_run(tmp_path, "one", exports={"gguf-q8_0": (0.2, 0.12, 0.28), "gguf-q4_0": None})
    rows = by_label(compare([run]))
    assert rows["one teacher"].kept.value == 100 and rows["one student"].kept.value == 80
    kept = rows["one gguf-q8_0"].kept
    assert kept.value == pytest.approx(75)  # 0.2 of 4 nats are 5 %
    half = (3**2 + 2**2) ** 0.5  # the student's ± 3 % and the file's ± 0.08 nats, which are 2 %
    assert (kept.low, kept.high) == pytest.approx((75 - half, 75 + half))
    untested = rows["one gguf-q4_0"]
    assert untested.kept is None and any("did not answer" in reason for reason in untested.missing)


def test_the_front_is_what_nothing_beats(tmp_path: Path):
    losses = {f"f{i}": (loss, loss, loss) for i, loss in enumerate((0.1, 0.05, 0.4, 0.4, 0.2))}
    found = compare([make_run(tmp_path, "one", exports=losses, timed={"teacher": 0.5, "student": 0.2, "f0": 0.2})])
    for cost in COSTS[:2]:
        known = [e for e in found.entries if e.kept and cost.of(e) is not None]
        best = [
            e
            for e in known
            if not any(
                o is not e and o.kept.value >= e.kept.value and cost.of(o) <= cost.of(e)
                and (o.kept.value > e.kept.value or cost.of(o) < cost.of(e))
                for o in known
            )
        ]  # fmt: skip
        assert {e.label for e in found.front(cost)} == {e.label for e in best}
    assert found.front(Cost("energy", "", lambda e: e.joules)) == []


def test_what_was_not_measured_is_said(tmp_path: Path):
    bare = tmp_path / "bare"
    bare.mkdir()
    found = compare([bare, make_run(tmp_path / "two", "two", timed={"student": 0.1})])
    rows = by_label(found)
    assert rows["bare student"].kept is None and any(
        "stillhouse evaluate runs/bare" in m for m in rows["bare student"].missing
    )
    assert any("stillhouse profile runs/bare" in m for m in rows["bare student"].missing)
    assert any("left out" in m for m in rows["two teacher"].missing)
    assert any("--watts" in m for m in rows["two student"].missing)
    out = io.StringIO()
    show(found, Console(file=out, width=160))
    assert "Not measured" in out.getvalue() and "stillhouse evaluate runs/bare" in out.getvalue()
    with pytest.raises(RunError, match="no such run folder"):
        compare([tmp_path / "nowhere"])


def test_what_cannot_be_compared_is_said(tmp_path: Path):
    one = make_run(tmp_path / "a", "same", timed={"student": 0.1}, threads=1)
    two = make_run(tmp_path / "b", "same", teacher="other", timed={"student": 0.1}, threads=2)
    found = compare([one, two])
    assert {entry.run for entry in found.entries} == {"a", "b"}
    notes = " ".join(found.notes)
    assert "own teacher, and these are 2: big, other" in notes and "different machines" in notes
    assert compare([one]).notes == ()
    twins = compare([one, one])
    assert len({entry.label for entry in twins.entries}) == len(twins.entries)


def test_the_page_draws_what_is_known_and_shows_foreign_names_harmlessly(tmp_path: Path):
    exports = {"gguf-q8_0": (0.2, 0.1, 0.3), "<script>x</script>\u202e": (0.3, 0.2, 0.4)}
    timed = {"teacher": 0.5, "student": 0.2, "gguf-q8_0": 0.1}
    run = make_run(tmp_path, "one", exports=exports, timed=timed, joules={"teacher": 4.0, "student": 2.0})
    page = render(compare([run]))
    for words in ("Quality against size", "Quality against latency", "Quality against energy", "measured: RAPL"):
        assert words in page, words
    assert "<script" not in page and "\u202e" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert render(compare([make_run(tmp_path / "x", "x")])).count("is not drawn") == 2


def test_the_command_writes_page_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = make_run(tmp_path / "run", "one", exports={"gguf-q8_0": (0.2, 0.1, 0.3)}, timed={"student": 0.2})
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(run), "--html", str(tmp_path / "c.html"), "--json", str(tmp_path / "c.json")])
    assert not stop.value.code
    told = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert [e["name"] for e in told["entries"]] == ["teacher", "student", "gguf-q8_0"]
    assert told["entries"][1]["answer"]["value"] == 0.2 and told["entries"][2]["front"] == ["size"]
    assert "Quality against" in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "keeps, %" in capsys.readouterr().out
