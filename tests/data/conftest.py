"""What the tests of data share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from .tiny import make


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Saved and loaded again, as users' tokenizers are."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make().save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a file and return its path as a recipe names it."""

    def put(name: str, content: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return str(path)

    return put
