"""All combinations of some words."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from stillhouse.data.reading import lines, matching, reads
from stillhouse.data.synthesis import Prompt
from stillhouse.data.templates import filled, names, refuse_single_braces
from stillhouse.errors import DataError, fail

_ENDINGS = (".txt",)


@reads(
    lambda options: [p for a in options["axes"].values() if isinstance(a, str) for p in matching(a, _ENDINGS)] or None
)
def grid(
    *, axes: dict[str, list[str] | str], template: str, count: int | None = None, seed: int = 0
) -> Iterator[Prompt]:
    """A template filled with all combinations of topics, styles or what else there is, in a random order.

    Texts asked for on many topics in many styles repeat themselves less: Eldan and Li 2023, arXiv:2305.07759, §2.

    Args:
        axes: name → what there is of it: a list, or a text file with one a line, as ``{topic: topics.txt, style: [a letter]}``.
        template: the prompt, with each name once or more, as "Write {{ style }} about {{ topic }}.".
        count: only so many of the combinations.
        seed: of the order.

    Raises:
        DataError: an axis is empty, the template lacks one, or names what is none.
    """
    values = {name: _listed(axis, name) if isinstance(axis, str) else axis for name, axis in axes.items()}
    refuse_single_braces(template, values, "template")
    for name, axis in values.items():
        if not axis:
            raise fail(DataError, f"axes.{name}", "is empty")
        if name not in names(template):
            what = f"does not name {{{{ {name} }}}}"
            raise fail(DataError, "template", what, f"Write {{{{ {name} }}}} where it belongs.")
    combinations = list(itertools.product(*values.values()))
    random.Random(seed).shuffle(combinations)
    for combination in combinations[:count]:
        chosen = dict(zip(values, combination, strict=True))
        yield Prompt(filled(template, chosen, "template"), dict(chosen))


def _listed(path: str, name: str) -> list[str]:
    return [text for _, _, text in lines(path, f"{{{{ {name} }}}}", name)]
