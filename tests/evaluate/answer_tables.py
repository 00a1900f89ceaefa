"""Answers of made-up models whose skill and faults are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stillhouse.evaluate.answers import Answered, Answers, Replies

OPTIONS = 4


def choices(
    name: str,
    rights: Mapping[str, np.ndarray],
    *,
    options: int = OPTIONS,
    capability: str = "knowledge",
    tags: Mapping[str, Sequence[str]] | None = None,
    cluster: np.ndarray | None = None,
    skill: bool = True,
    seed: int = 0,
    sharpness: float = 1.0,
) -> Answered:
    """A task whose roles are right where it is said; wrong ones choose any other option."""
    rng = np.random.default_rng(seed)
    n = len(next(iter(rights.values())))
    gold = rng.integers(0, options, n)
    roles = {}
    for role, right in rights.items():
        chosen = np.where(right > 0.5, gold, (gold + rng.integers(1, options, n)) % options)
        ll = rng.normal(-8.0, 0.3, (n, options))
        ll[np.arange(n), chosen] = -5.0 * sharpness
        roles[role] = Replies(ll, np.full((n, options), 3.0), None, np.zeros((n, options)), ("",) * n, ("",) * n,
                              np.full(n, np.nan), np.zeros(n))  # fmt: skip
    return Answered(
        task=name, kind="choice", capability=capability, skill=skill, outside="", normalisation="raw",
        question=np.array([str(i) for i in range(n)], dtype=object), prompt=np.array(["p"] * n, dtype=object),
        cluster=np.arange(n) if cluster is None else cluster, gold=gold, floor_N=np.full(n, 1 / options),
        characters_NK=rng.integers(4, 30, (n, options)).astype(float), bytes_NK=np.full((n, options), 8.0),
        tags={key: np.array(list(value), dtype=object) for key, value in (tags or {}).items()}, roles=roles,
    )  # fmt: skip


def right(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    return (rng.random(n) < share).astype(float)


def less(
    rng: np.random.Generator, teacher: np.ndarray, kept: float, floor: float, where: np.ndarray | None = None
) -> np.ndarray:
    """A student that keeps a share of the teacher's skill above the floor: some answers are replaced by guesses."""
    guess = (rng.random(len(teacher)) < floor).astype(float)
    replaced = rng.random(len(teacher)) < 1 - kept
    if where is not None:
        replaced &= where
    return np.where(replaced, guess, teacher)


World = Callable[[], Answers]


def suite(seed: int = 0, n: int = 3000) -> dict[str, np.ndarray]:
    """What a teacher has right in four tasks and how it leans in a probe."""
    rng = np.random.default_rng(seed)
    steps = np.array([str(1 + i % 4) for i in range(n)])
    return {
        "knowledge": right(rng, n, 0.8),
        "grammar": right(rng, n, 0.85),
        "recall": right(rng, n, 0.7),
        "chains": (rng.random(n) < 0.25 + 0.75 * 0.93 ** steps.astype(int)).astype(float),
        "probe": right(rng, n, 0.58),
    }


def answers(
    teacher: Mapping[str, np.ndarray], student: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray] | None = None
) -> Answers:
    """The suite's tables."""
    n = len(teacher["knowledge"])
    tags = {
        "knowledge": {"subject": ["botany" if i % 12 == 0 else "physics" if i % 2 else "history" for i in range(n)]},
        "grammar": {"field": ["syntax" if i % 2 else "morphology" for i in range(n)]},
        "recall": {"pairs": [str(4 * (1 + i % 2)) for i in range(n)]},
        "chains": {"steps": [str(1 + i % 4) for i in range(n)]},
        "probe": {},
    }
    kinds = {"chains": "reasoning", "probe": "bias"}
    found = []
    for name in teacher:
        roles = {"teacher": teacher[name], "student": student[name]} | ({"before": before[name]} if before else {})
        found.append(
            choices(name, roles, options=2 if name == "probe" else OPTIONS, capability=kinds.get(name, name), tags=tags[name],
                    skill=name != "probe", seed=len(found))
        )  # fmt: skip
    return Answers(tuple(found))


def replaced(table: Answers, name: str, change: Callable[[Answered], Answered]) -> Answers:
    """The tables with one task changed."""
    return dataclasses.replace(table, tasks=tuple(change(t) if t.task == name else t for t in table.tasks))


def every_kind() -> Answers:
    """A teacher and a good student on the suite, a text and something written."""
    teacher = suite()
    rng = np.random.default_rng(1)
    student = {k: np.where(rng.random(len(x)) < 0.05, rng.permutation(x), x) for k, x in teacher.items()}
    table = answers(teacher, student, before={k: less(rng, x, 0.9, 1 / OPTIONS) for k, x in teacher.items()})
    base = choices("letters to the editor", {"teacher": np.ones(60), "student": np.ones(60)}, capability="language")
    cost = {role: rng.normal(-900, 50, (60, 1)) for role in base.roles}
    text = dataclasses.replace(
        base, kind="text", bytes_NK=np.full((60, 1), 1500.0),
        roles={role: dataclasses.replace(x, ll_NK=cost[role]) for role, x in base.roles.items()},
    )  # fmt: skip
    told = dataclasses.replace(
        base, task="told", kind="write", capability="instructions", floor_N=np.zeros(60),
        roles={role: dataclasses.replace(x, score_N=right(rng, 60, 0.6), stop=("eos",) * 60) for role, x in base.roles.items()},
    )  # fmt: skip
    far = dataclasses.replace(table.tasks[0], task="far", outside="knowledge")
    return Answers((*table.tasks, text, told, far))
