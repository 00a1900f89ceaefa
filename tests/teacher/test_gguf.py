"""A GGUF teacher reads text as the words that its file says, in what was kept too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shared import make_llama, make_tokenizer

from stillhouse.errors import ModelError
from stillhouse.export.formats.gguf import gguf as write
from stillhouse.teacher.sources.gguf import gguf

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-zA-Z]+| ?[0-9]+| ?[^\sa-zA-Z0-9]+|\s+(?!\S)|\s+"
"""GPT-2's rule, for text of ASCII."""
TEXT = "the  12 cats:\n\n1. a cat\n\n\n 34  dogs sat\t5"


@pytest.mark.parametrize(
    ("rule", "first"), [("smollm", r"[0-9]|[^0-9]+"), ("gpt-2", r"(?s).+"), ("starcoder", r"[0-9]|[^0-9]+")]
)
def test_words_are_cut_by_the_files_rule(rule: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each digit by itself and then GPT-2's words, or these alone; merges never cross a word."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    student = make_llama(make_tokenizer())
    path = write(student, tmp_path, precision="f32", pre=rule).path
    words = [word for part in re.findall(first, TEXT) for word in re.findall(GPT2, part)]
    assert "".join(words) == TEXT
    expected = [number for word in words for number in student.tokenizer(word, add_special_tokens=False).input_ids]
    for _ in ("from the file", "from what was kept"):
        assert gguf(model=str(path)).tokenizer(TEXT, add_special_tokens=False).input_ids == expected


def test_blanks_before_digits_are_where_the_two_rules_differ():
    """The case above would prove nothing if both gave the same tokens."""
    assert "  " in [word for part in re.findall(r"[0-9]|[^0-9]+", TEXT) for word in re.findall(GPT2, part)]
    assert "  " not in re.findall(GPT2, TEXT)
    assert len(make_tokenizer()("  ").input_ids) == 1


def test_a_rule_that_is_not_known_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Cut by another rule the model would run, on other tokens than it learned."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write(make_llama(make_tokenizer()), tmp_path, precision="f32", pre="falcon").path
    with pytest.raises(ModelError, match=r"(?s)by the rule 'falcon', which is not known here.*tokenizer\.json"):
        gguf(model=str(path))
    assert not list((tmp_path / "cache").rglob("config.json"))
