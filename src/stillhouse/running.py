"""What runtimes share: what lies beside an artefact's file, networks of transformers, whether there is a browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BROWSERS = ("chromium", "google-chrome", "chromium-browser", "chrome")


def browser_program() -> str | None:
    """Chromium or Chrome, if one is installed."""
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


def types_of(ids: list[int], separator: int | None) -> NDArray[np.int64]:
    """Which text of a pair each token is of.

    Args:
        ids: tokens of a text or pair.
        separator: the token that ends a text.

    Returns:
        [1, P]: 0 in the first text and 1 in the second, which begins behind the first separator.

    """
    ends = np.array([ids]) == separator
    types: NDArray[np.int64] = np.minimum(ends.cumsum(-1) - ends, 1).astype(np.int64)
    return types


class Beside:
    """Tokenizer and facts of an artefact.

    Args:
        folder: the artefact's.

    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.facts: dict[str, Any] = json.loads((folder / "artefact.json").read_text(encoding="utf-8"))

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without those that begin and end one."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def types(self, ids: list[int]) -> NDArray[np.int64]:
        """Which text of a pair each token is of, as ``types_of``."""
        return types_of(ids, self.facts["separator"])


class Network:
    """A loaded network with what it keeps of a text.

    Args:
        network: of transformers, in eval mode.
        classifies: whether it says classes.
        tokenizer: whose separator stands between the two texts of a pair.
        threads: for its arithmetic.

    """

    def __init__(self, network: Any, *, classifies: bool, tokenizer: Any, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.network, self.classifies, self.tokenizer = torch, network, classifies, tokenizer
        apart = "token_type_ids" in tokenizer.model_input_names and tokenizer.sep_token_id is not None
        self.tells_apart = classifies and apart and getattr(network.config, "type_vocab_size", 0) > 1
        self.reset()

    def reset(self) -> None:
        """Forget what was fed."""
        self.past: Any = None

    def feed(self, ids: list[int]) -> NDArray[np.float32]:
        """Go on with a text; of a classifier, read a whole one."""
        with self.torch.inference_mode():
            tokens = self.torch.tensor([ids])
            if self.classifies:
                types: dict[str, Any] = {}
                if self.tells_apart:
                    types["token_type_ids"] = self.torch.from_numpy(types_of(ids, self.tokenizer.sep_token_id))
                classes: NDArray[np.float32] = self.network(input_ids=tokens, **types).logits.numpy()
                return classes
            out = self.network(input_ids=tokens, past_key_values=self.past, use_cache=True)
        self.past = out.past_key_values
        logits: NDArray[np.float32] = out.logits[0].numpy()
        return logits

    def encode(self, text: str) -> list[int] | None:
        """Tokens of a text, without those that begin and end one."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)
