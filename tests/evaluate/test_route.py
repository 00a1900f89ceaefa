"""Did the stages help: the verdict follows the paired difference by document, whichever way it points."""

from __future__ import annotations

import numpy as np
import pytest

from stillhouse.evaluate.measures.route import route
from stillhouse.evaluate.records import Items, Scores


def table(gain: float, spread: float) -> Items:
    """Forty documents of ten tokens of four bytes: the direct student is ``gain`` nats a token worse, give or take."""
    draw = np.random.default_rng(5)
    document = np.repeat(np.arange(40), 10)
    student = draw.uniform(1.0, 2.0, 400)
    direct = student + gain + spread * np.repeat(draw.standard_normal(40), 10)
    key = np.array([f"d{d}" for d in document], dtype=np.object_)
    roles = {"student": Scores(student), "direct": Scores(direct)}
    return Items(document, key, np.tile(np.arange(10), 40), np.zeros(400, np.int64), np.full(400, 4), roles)


@pytest.mark.parametrize(
    ("gain", "spread", "verdict"), [(0.2, 0.1, "PASS"), (-0.2, 0.1, "FAIL"), (0.01, 0.4, "INCONCLUSIVE")]
)
def test_the_verdict_follows_the_paired_difference(gain: float, spread: float, verdict: str) -> None:
    items = table(gain, spread)
    got = route(items)
    assert got.verdict == verdict
    lost = (items.roles["direct"].nll - items.roles["student"].nll).sum() / np.log(2) / 1600
    assert got.estimates[0].value == pytest.approx(lost)
    assert got.estimates[0].unit == "bits per byte"
    low, high = got.estimates[0].low, got.estimates[0].high
    assert low is not None and high is not None and low < lost < high


def test_without_the_direct_student_nothing_is_measured() -> None:
    items = table(0.1, 0.1)
    alone = Items(
        items.document, items.key, items.position, items.label, items.bytes, {"student": items.roles["student"]}
    )
    assert route(alone).verdict == "NOT MEASURED"
