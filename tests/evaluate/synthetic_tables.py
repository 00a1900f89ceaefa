"""Item tables from made-up models whose skill and faults are known."""

from __future__ import annotations

import math

import numpy as np

from stillhouse.evaluate.records import Items, Scores

OUTCOMES = 12


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def scored(p_teacher: np.ndarray, q: np.ndarray, labels: np.ndarray) -> Scores:
    """All columns of one role, from the definitions."""
    n = len(labels)
    rows = np.arange(n)
    return Scores(
        nll=-np.log(q[rows, labels]),
        kl=np.maximum(0.0, (p_teacher * (np.log(p_teacher) - np.log(q))).sum(axis=1)),
        agree=(q.argmax(1) == p_teacher.argmax(1)).astype(float),
        accept=np.minimum(p_teacher, q).sum(axis=1),
        conf=q.max(axis=1),
        correct=(q.argmax(1) == labels).astype(float),
        said=q.argmax(1).astype(float),
    )


class World:
    """Documents of unequal length; a teacher that knows the truth; students that are the teacher with a fault."""

    def __init__(self, documents: int = 60, seed: int = 0, length: int = 150) -> None:
        self.rng = np.random.default_rng(seed)
        lengths = self.rng.integers(length // 2, length * 3 // 2, size=documents)
        self.document = np.repeat(np.arange(documents), lengths)
        self.n = len(self.document)
        hard = self.rng.normal(1.0, 0.1, documents)[self.document]  # documents differ
        self.logits = self.rng.normal(0, 3.0, (self.n, OUTCOMES)) * hard[:, None]
        p = softmax(self.logits)
        self.labels = np.array([self.rng.choice(OUTCOMES, p=row) for row in p])
        self.position = np.concatenate([np.arange(k) for k in lengths])

    def noisy(self, amount: float) -> np.ndarray:
        """The teacher's logits with noise: less skill, the more of it."""
        return self.logits + self.rng.normal(0, amount, self.logits.shape)

    def items(self, *, bytes_: bool = True, **logits: np.ndarray) -> Items:
        p = softmax(self.logits)
        counts = np.bincount(self.labels, minlength=OUTCOMES) + 1.0
        floor = -np.log(counts / counts.sum())[self.labels]
        roles = {role: scored(p, softmax(x), self.labels) for role, x in logits.items()}
        return Items(
            document=self.document,
            key=np.array([f"d{d}" for d in self.document], dtype=object),
            position=self.position,
            label=self.labels,
            bytes=(self.labels % 4 + 1) if bytes_ else None,
            roles={
                "teacher": scored(p, p, self.labels),
                **roles,
                "floor": Scores(
                    floor,
                    correct=(self.labels == counts.argmax()).astype(float),
                    said=np.full(self.n, float(counts.argmax())),
                ),
            },
        )


def value(finding: object, label: str, role: str) -> float:
    """The one estimate of that label and role."""
    found = [e for e in finding.estimates if e.label == label and e.role == role]  # type: ignore[attr-defined]
    assert len(found) == 1, (label, role, [(e.label, e.role) for e in finding.estimates])  # type: ignore[attr-defined]
    assert found[0].value is not None and math.isfinite(found[0].value)
    return float(found[0].value)
