"""The model card, as a hub and a Markdown renderer read it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from stillhouse.errors import RunError
from stillhouse.report import model_card, report


def split(card: str) -> tuple[dict[str, Any], str]:
    start, front, body = card.split("---\n", 2)
    assert start == ""
    content = yaml.safe_load(front)
    assert isinstance(content, dict)
    return content, body


def outside_code(body: str) -> str:
    """The Markdown without its fenced blocks; asserts that every fence closes."""
    lines, kept, fence = body.split("\n"), [], ""
    for line in lines:
        marks = re.match(r"`{3,}", line)
        if fence:
            if line.strip() == fence:
                fence = ""
        elif marks:
            fence = marks[0]
        else:
            kept.append(line)
    assert not fence, "a code block is never closed"
    return "\n".join(kept)


def test_front_matter(run: Path) -> None:
    front, _ = split(model_card(run))
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert front["library_name"] == "transformers"
    assert "distillation" in front["tags"]
    assert "license" not in front, "a licence that is not known is not guessed"


def test_a_known_licence_is_told(run: Path, example: ModuleType) -> None:
    told = example.evaluation()
    told["models"]["teacher"]["license"] = "Apache-2.0"
    example.put_json(run / "evaluation.json", told)
    assert split(model_card(run))[0]["license"] == "apache-2.0"


@pytest.mark.parametrize("name", ["/home/jane/models/teacher", "teacher.gguf", "../up/two"])
def test_a_teacher_that_is_no_hub_id_is_no_base_model(run: Path, example: ModuleType, name: str) -> None:
    told = example.evaluation()
    told["models"]["teacher"]["name"] = name
    example.put_json(run / "evaluation.json", told)
    text = (run / "recipe.yaml").read_text(encoding="utf-8")
    (run / "recipe.yaml").write_text(text.replace("HuggingFaceTB/SmolLM2-135M-Instruct", name), encoding="utf-8")
    card = model_card(run)
    assert "base_model" not in split(card)[0]
    assert "jane" not in card


def test_a_folder_that_looks_like_a_hub_id_is_none(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "HuggingFaceTB" / "SmolLM2-135M-Instruct").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in split(model_card(run))[0]


def test_the_body_says_what_how_and_how_well(run: Path) -> None:
    _, body = split(model_card(run))
    headings = [line for line in outside_code(body).split("\n") if line.startswith("#")]
    assert headings[0] == "# smol-24m" and sum(h.startswith("# ") for h in headings) == 1
    for wanted in ("How it was made", "Measured", "Limits", "How to load", "Samples", "How to reproduce"):
        assert f"## {wanted}" in headings
    for said in ("INCONCLUSIVE", "2.11× smaller", "91.6 to 95.0", "drop\\_layers", "Not measured:", "7f3a91c2d04be815"):
        assert said in body, said


def test_the_snippet_is_python_that_loads_the_student(run: Path) -> None:
    _, body = split(model_card(run))
    (code,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    tree = ast.parse(code)
    calls = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    assert {"from_pretrained", "generate", "decode"} <= calls


def test_tables_have_as_many_cells_as_columns(hostile: Path) -> None:
    lines = outside_code(split(model_card(hostile))[1]).split("\n")
    columns = 0
    for line in lines:
        if not line.startswith("|"):
            columns = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        columns = columns or cells
        assert cells == columns, line


def test_hostile_text_stays_text(hostile: Path) -> None:
    card = model_card(hostile)
    front, body = split(card)
    assert "license" not in front
    text = outside_code(body).replace("<details><summary>recipe.yaml</summary>", "").replace("</details>", "", 1)
    for sign in ("<", "[", "`", "*"):
        live = [m.start() for m in re.finditer(rf"(?<!\\){re.escape(sign)}", text)]
        if sign == "*":
            live = [i for i in live if not re.match(r"\*\*", text[i:]) and text[i - 1] != "*"]
        if sign == "`":
            continue  # the commands of the card itself
        assert not live, (sign, text[live[0] - 30 : live[0] + 60])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", card)
    card.encode("utf-8")


def test_an_empty_folder_has_a_card(tmp_path: Path) -> None:
    front, body = split(model_card(tmp_path))
    assert front["library_name"] == "transformers" and "base_model" not in front
    assert "Measure with `stillhouse evaluate" in body


def test_it_is_written_beside_the_weights(run: Path) -> None:
    report(run)
    assert (run / "student" / "README.md").read_text(encoding="utf-8") == model_card(run)


def test_no_run_no_card(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        model_card(tmp_path / "nowhere")
