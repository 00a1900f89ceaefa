"""Text that the teacher writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared import make_llama, make_tokenizer

from stillhouse.data import prepare
from stillhouse.data.sources.written import written
from stillhouse.errors import DataError
from stillhouse.recipe import parse


def test_every_prompt_is_answered_and_the_seed_decides(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("# not a prompt\nstill water\n\nthe quick fox\noak\n")
    teacher = make_llama(make_tokenizer())
    one, same, other = (
        list(written(teacher, prompts=str(path), samples=2, new_tokens=6, together=4, seed=s)) for s in (1, 1, 2)
    )
    assert [r["prompt"] for r in one] == ["still water"] * 2 + ["the quick fox"] * 2 + ["oak"] * 2
    assert one == same != other
    assert all(r["messages"][1]["content"] == r["response"] == r["text"] for r in one)
    assert one[0]["response"] != one[1]["response"]


def test_neighbours_in_a_batch_do_not_change_what_is_read(tmp_path: Path):
    """Padding on the left is seen by nobody: nearly greedy, an answer alone is the answer among longer prompts."""
    path = tmp_path / "prompts.txt"
    teacher = make_llama(make_tokenizer())
    path.write_text("oak\n")
    (alone,) = written(teacher, prompts=str(path), new_tokens=5, temperature=1e-4)
    path.write_text("oak\nthe quick brown fox jumps over the lazy dog and deep still waters\n")
    together = list(written(teacher, prompts=str(path), new_tokens=5, temperature=1e-4))
    assert together[0] == alone


def test_a_file_without_prompts(tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="holds no prompt"):
        list(written(make_llama(make_tokenizer()), prompts=str(tmp_path / "prompts.txt")))


def test_a_corpus_is_made_of_it(tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt number {i}" for i in range(12)))
    source = {"name": "written", "prompts": str(tmp_path / "prompts.txt"), "new_tokens": 24, "format": "chat"}
    settings = parse({"data": {"sources": source, "block": 64, "validation": 0.3}, "teacher": "x", "student": "random"})
    teacher = make_llama(make_tokenizer())
    corpus = prepare(settings.data, teacher.tokenizer, tmp_path / "data", teacher=teacher)
    assert corpus.facts["documents"] == 12
    assert 0 < corpus.train.loss_positions < corpus.train.tokens  # the prompts carry none
