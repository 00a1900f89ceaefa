"""Break the statistics in one place after another and see that a test notices: ``python tests/evaluate/mutate.py [numbers]``.

The same machinery as ``tests/traps/put_back.py``: a copy of the source is changed, one named test must fail. Exits with 1 if a fault
went unnoticed. What takes long to import is imported once; each test runs in a fork of that process, with the changed copy (a minute or two
for all).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "traps"))

from put_back import ROOT, Patch, main

FOLDER = "tests/evaluate"

FAULTS: tuple[tuple[str, str, str, str, str], ...] = (
    # what is wrong, file under statistics/, what stands there, what is put there, the test that must fail
    (
        "normal quantiles in place of Student's t",
        "means.py",
        "half = t_quantile(0.5 + confidence / 2, self.df) * self.se",
        "half = t_quantile(0.5 + confidence / 2, 1e9) * self.se",
        "test_statistics.py::test_ratio_is_the_jackknife",
    ),
    (
        "G/(G−1) left out",
        "means.py",
        "math.sqrt((clusters - 1) / clusters) * (top_G - value * size_G) / (whole - size_G)",
        "(top_G - value * size_G) / whole",
        "test_statistics.py::test_equal_clusters_give_cr1",
    ),
    (
        "clusters ignored: items taken as independent",
        "means.py",
        "    index_N, clusters = cluster_index(cluster_N)\n    top_G",
        "    index_N, clusters = cluster_index(np.arange(len(cluster_N)))\n    top_G",
        "test_statistics.py::test_ratio_is_the_jackknife",
    ),
    (
        "degrees of freedom G − 1 whatever the clusters' sizes",
        "means.py",
        "effective = whole**2 / float(size_G @ size_G)",
        "effective = float(clusters)",
        "test_statistics.py::test_ratio_is_the_jackknife",
    ),
    (
        "an interval of 90 % called 95",
        "means.py",
        "t_quantile(0.5 + confidence / 2, self.df)",
        "t_quantile(confidence, self.df)",
        "test_statistics.py::test_ratio_is_the_jackknife",
    ),
    (
        "teacher and student swapped",
        "keeping.py",
        "surplus_G = student_G - threshold * teacher_G",
        "surplus_G = teacher_G - threshold * student_G",
        "test_statistics.py::test_half_the_skill_fails[80]",
    ),
    (
        "two-sided where the verdict is one-sided",
        "keeping.py",
        'verdict: Verdict = "PASS" if p_above <= alpha else',
        'verdict: Verdict = "PASS" if p_above <= alpha / 2 else',
        "test_statistics.py::test_five_percent_are_on_one_side",
    ),
    (
        "PASS where it could not be shown to be worse",
        "keeping.py",
        'verdict: Verdict = "PASS" if p_above <= alpha else',
        'verdict: Verdict = "PASS" if p_below > alpha else',
        "test_statistics.py::test_retention_covers_and_seldom_passes_wrongly[1-100]",
    ),
    (
        "the covariance of teacher and student dropped from Fieller's set",
        "keeping.py",
        "half_b = below * above - square * covariance",
        "half_b = below * above",
        "test_statistics.py::test_fieller_set_by_scanning_it",
    ),
    (
        "the teacher's variance used for the student's",
        "keeping.py",
        "c = above**2 - square * above_variance",
        "c = above**2 - square * below_variance",
        "test_statistics.py::test_fieller_set_by_scanning_it",
    ),
    (
        "a ratio given where the teacher is at the floor",
        "keeping.py",
        "if gap.value < 3.0 * gap.se or",
        "if gap.value < 0.0 * gap.se or",
        "test_statistics.py::test_two_and_a_half_standard_errors_are_not_enough",
    ),
    (
        "the margin above the floor not asked for",
        "keeping.py",
        "gap.bounds(0.95)[0] < margin",
        "gap.bounds(0.95)[0] < 0.0",
        "test_statistics.py::test_the_margin_alone_makes_uninformative",
    ),
    (
        "losses read as gains",
        "keeping.py",
        "sign = -1.0 if lower_is_better else 1.0",
        "sign = 1.0",
        "test_statistics.py::test_losses_are_gains_turned_round",
    ),
    (
        "the test of skewed answers left out",
        "keeping.py",
        "p_above, p_below = map(max, (p_above, p_below), studentised(surplus_G, size_G))",
        "pass",
        "test_statistics.py::test_both_tests_must_agree_where_clusters_are_few_and_skewed",
    ),
    (
        "a difference of two sets with the errors of one",
        "keeping.py",
        "low = value - math.hypot(one.value - one.low, other.high - other.value)",
        "low = value - (one.value - one.low)",
        "test_statistics.py::test_a_difference_has_the_errors_of_both",
    ),
    (
        "the wrong tail",
        "signs.py",
        "return 1.0 - below, below",
        "return below, 1.0 - below",
        "test_statistics.py::test_half_the_skill_fails[80]",
    ),
    (
        "the observed signs not counted among all",
        "signs.py",
        "np.mean(sums >= observed - slack)",
        "np.mean(sums > observed + slack)",
        "test_statistics.py::test_sign_flip_by_enumeration",
    ),
    (
        "replicates not centred on what was seen",
        "studentised.py",
        "away_R = value_R - value[0]",
        "away_R = value_R",
        "test_statistics.py::test_studentised_by_drawing_in_a_loop",
    ),
    (
        "replicates not divided by their own errors",
        "studentised.py",
        "away_R / error_R,",
        "away_R / error[0],",
        "test_statistics.py::test_studentised_by_drawing_in_a_loop",
    ),
    (
        "standard error of a bootstrap: SD/√B",
        "resampling.py",
        "se = float(np.std(values, ddof=1)) if len(values) > 1",
        "se = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1",
        "test_statistics.py::test_bootstrap_error_of_a_mean_is_the_analytic_one",
    ),
    (
        "standard deviation of a population",
        "resampling.py",
        "np.std(values, ddof=1)",
        "np.std(values, ddof=0)",
        "test_statistics.py::test_bca_by_its_definition",
    ),
    (
        "items drawn in place of clusters",
        "resampling.py",
        "drawn = rng.integers(0, clusters, size=(count, clusters))",
        "drawn = rng.integers(0, clusters - 1, size=(count, clusters))",
        "test_statistics.py::test_bca_by_its_definition",
    ),
    (
        "acceleration of the wrong sign",
        "resampling.py",
        "distance = values.mean() - values",
        "distance = values - values.mean()",
        "test_statistics.py::test_bca_by_its_definition",
    ),
    (
        "bias of the replicates not corrected",
        "resampling.py",
        "return normal_cdf(bias + (bias + z) / shrink)",
        "return normal_cdf(z / shrink)",
        "test_statistics.py::test_bca_by_its_definition",
    ),
    (
        "McNemar without the half of the observed",
        "counts.py",
        "return min(1.0, 2.0 * math.fsum(mass) - mass[-1])",
        "return min(1.0, 2.0 * math.fsum(mass))",
        "test_statistics.py::test_mcnemar_by_writing_out_all_coins",
    ),
    (
        "McNemar of one side",
        "counts.py",
        "2.0 * math.fsum(mass) - mass[-1]",
        "math.fsum(mass) - mass[-1] / 2",
        "test_statistics.py::test_mcnemar_by_writing_out_all_coins",
    ),
    (
        "Wilson's interval one-sided",
        "counts.py",
        "z = normal_quantile(0.5 + confidence / 2)",
        "z = normal_quantile(confidence)",
        "test_statistics.py::test_wilson_solves_its_equation",
    ),
    (
        "none of sixty is surely none",
        "counts.py",
        "if found.value in (0.0, 1.0):",
        "if found.value in (2.0,):",
        "test_simulation.py::test_none_of_sixty_is_not_surely_none",
    ),
    (
        "Holm without its steps",
        "families.py",
        "min(1.0, (len(p_values) - rank) * p_values[i])",
        "min(1.0, p_values[i])",
        "test_statistics.py::test_holm_and_benjamini_hochberg_by_hand",
    ),
    (
        "Holm that is not monotone",
        "families.py",
        "largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))",
        "largest = min(1.0, (len(p_values) - rank) * p_values[i])",
        "test_statistics.py::test_holm_and_benjamini_hochberg_by_hand",
    ),
    (
        "Benjamini–Hochberg without the rank",
        "families.py",
        "p_values[i] * len(p_values) / rank)",
        "p_values[i] * len(p_values))",
        "test_statistics.py::test_holm_and_benjamini_hochberg_by_hand",
    ),
    (
        "tasks weighted by their size",
        "together.py",
        "value, se = sum(part.value for part in parts) / len(parts), math.sqrt(total) / len(parts)",
        "whole = sum(part.clusters for part in parts)\n"
        "    value, se = sum(part.value * part.clusters / whole for part in parts), math.sqrt(total) / len(parts)",
        "test_simulation.py::test_degrees_of_freedom_are_satterthwaites",
    ),
    (
        "the covariance not averaged over tasks",
        "together.py",
        "covariance = sum(r.covariance for r in kept) / len(kept) ** 2",
        "covariance = 0.0 * sum(r.covariance for r in kept)",
        "test_simulation.py::test_together_of_one_is_that_one",
    ),
    (
        "degrees of freedom added up",
        "together.py",
        "df = max(1.0, total**2 / spread) if spread > 0.0",
        "df = sum(part.df for part in parts) if spread > 0.0",
        "test_simulation.py::test_degrees_of_freedom_are_satterthwaites",
    ),
    (
        "a sign taken for known",
        "distance.py",
        "high = max(combined(sign, teacher_sign).bounds(0.95)[1] for sign in (-1.0, 1.0))",
        "high = combined(student_sign, teacher_sign).bounds(0.95)[1]",
        "test_statistics.py::test_further_holds_whatever_the_signs_are",
    ),
    (
        "the spread inside alone",
        "contrasts.py",
        "/ n_G.sum() - (other_G - outside * m_G) / m_G.sum()",
        "/ n_G.sum()",
        "test_slices.py::test_contrasts_by_hand",
    ),
    (
        "G/(G−1) left out of contrasts",
        "contrasts.py",
        "se = math.sqrt(clusters / (clusters - 1) * float(error_G @ error_G))",
        "se = math.sqrt(float(error_G @ error_G))",
        "test_slices.py::test_contrasts_by_hand",
    ),
    (
        "estimates moved by how much is known of them",
        "shrinking.py",
        "trust_K = between / (between + variance_K)",
        "trust_K = variance_K / (between + variance_K)",
        "test_statistics.py::test_shrunk_by_its_formula",
    ),
    (
        "a plan without power",
        "planning.py",
        "return math.ceil((normal_quantile(1 - alpha) + normal_quantile(power)) ** 2 * variance / effect**2)",
        "return math.ceil(normal_quantile(1 - alpha) ** 2 * variance / effect**2)",
        "test_statistics.py::test_items_needed",
    ),
    (
        "a plan of unpaired answers",
        "planning.py",
        "- 2 * threshold * covariance",
        "- 0 * threshold * covariance",
        "test_statistics.py::test_items_needed",
    ),
    (
        "a plan of two sides",
        "planning.py",
        "((t_quantile(1 - alpha, df) + t_quantile(power, df)) * single)",
        "((t_quantile(1 - alpha / 2, df) + t_quantile(power, df)) * single)",
        "test_statistics.py::test_clusters_needed_by_its_formula",
    ),
    (
        "Student's t with the wrong tail",
        "distributions.py",
        "return tail if t < 0 else 1.0 - tail",
        "return 1.0 - tail if t < 0 else tail",
        "test_statistics.py::test_t_quantile_integrates_to_its_level",
    ),
    (
        "Student's t of both tails",
        "distributions.py",
        "tail = 0.5 * _incomplete_beta(",
        "tail = _incomplete_beta(",
        "test_statistics.py::test_t_quantile_of_the_tables",
    ),
)  # fmt: skip

PATCHES = tuple(
    Patch(number, f"evaluate/statistics/{file}", old, new, test)
    for number, (_, file, old, new, test) in enumerate(FAULTS, 1)
)

HEAVY = ("numpy", "pyarrow.parquet", "torch", "transformers", "pydantic", "rich.console", "yaml", "pytest")
"""What the tests import that no fault changes."""


def forked(copy: Path, tests: Sequence[str], folder: str) -> tuple[int, str]:
    """Tests in a fork of this process that has the copy of the source in place of this one: exit code, and what they wrote."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.chdir(ROOT)
        sys.path.insert(0, str(copy))
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()
        code = importlib.import_module("pytest").main(
            ["-q", "-p", "no:cacheprovider", *(f"{folder}/{test}" for test in tests)]
        )
        sys.stdout.flush()
        os._exit(int(code))
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


if __name__ == "__main__":
    for name in HEAVY:
        importlib.import_module(name)
    assert not any(name.partition(".")[0] == "stillhouse" for name in sys.modules), "the copy must be what is imported"
    sys.exit(main([int(number) for number in sys.argv[1:]], PATCHES, FOLDER, forked))
