"""Domains: what a text costs student and teacher, by where it is from."""

from __future__ import annotations

from stillhouse.evaluate import statistics, wording
from stillhouse.evaluate.answers import Answers
from stillhouse.evaluate.records import Chart, Estimate, Finding, Mark, Point, Series
from stillhouse.evaluate.wording import estimate, say

_QUESTION = "In which kinds of text does the student lose most?"


def domains(answers: Answers) -> Finding:
    """In which kinds of text does the student lose most?

    Bits per byte of each ``plain_text`` task, student less teacher, paired by stretch of text. Below a word's worth of accuracy
    these move first; collapse of a kind of text shows as a loss far above the others. No verdict.

    Args:
        answers: the table; of teacher and student.
    """
    asked = [task for task in answers.having("teacher", "student") if task.kind == "text" and task.size > 1]
    if not asked:
        return wording.not_measured("domains", _QUESTION, "no text was asked of teacher and student")
    estimates: list[Estimate] = []
    rows = []
    for task in asked:
        size_N = task.bytes_NK[:, 0]
        bits = {role: task.score(role) * size_N for role in ("teacher", "student")}
        for role, bits_N in bits.items():
            cost = statistics.ratio(bits_N, size_N, task.cluster)
            estimates.append(estimate(f"{task.task}: cost", role, cost, "bits per byte", task.size))
        lost = statistics.ratio(bits["student"] - bits["teacher"], size_N, task.cluster)
        estimates.append(estimate(f"{task.task}: lost", "student", lost, "bits per byte", task.size))
        rows.append((task.task, lost, task.size))
    rows.sort(key=lambda row: -row[1].value)
    sentence = f"The student loses most in {rows[0][0]}, {say(rows[0][1], 'bits per byte')}"
    sentence += f", least in {rows[-1][0]}, {say(rows[-1][1], 'bits per byte')}." if len(rows) > 1 else "."
    points = tuple(Point(name, lost.value, lost.low, lost.high, n) for name, lost, n in rows)
    chart = Chart(
        "forest",
        "Bits per byte lost, by text",
        "",
        "bits per byte",
        (Series("student", points, "student"),),
        (Mark(0.0, "teacher"),),
    )
    return Finding("domains", _QUESTION, "DESCRIPTIVE", sentence, "", tuple(estimates), (chart,), (wording.ONE_SEED,))
