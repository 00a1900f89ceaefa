"""The statistics against their definitions, written out slowly, and against simulation where a probability is promised."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from stillhouse.evaluate import statistics as st

# --------------------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize(
    ("p", "z"), [(0.5, 0.0), (0.95, 1.6448536), (0.975, 1.9599640), (0.999, 3.0902323), (0.2, -0.8416212)]
)
def test_normal_quantile_of_the_tables(p: float, z: float) -> None:
    assert st.normal_quantile(p) == pytest.approx(z, abs=1e-6)
    assert st.normal_cdf(z) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [
        (0.975, 1, 12.7062047),
        (0.975, 2, 4.3026527),
        (0.975, 4, 2.7764451),
        (0.95, 4, 2.1318468),
        (0.975, 10, 2.2281389),
        (0.95, 19, 1.7291328),
        (0.975, 30, 2.0422725),
        (0.995, 120, 2.6174210),
        (0.025, 10, -2.2281389),
    ],
)
def test_t_quantile_of_the_tables(p: float, df: float, t: float) -> None:
    assert st.t_quantile(p, df) == pytest.approx(t, abs=1e-6)


@pytest.mark.parametrize("df", [1.0, 2.5, 7.0, 59.0, 400.0])
@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.9987])
def test_t_quantile_integrates_to_its_level(df: float, p: float) -> None:
    """Simpson's rule over the density from 0 to the quantile."""
    t = st.t_quantile(p, df)
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    steps = 200_000
    x = np.linspace(0.0, t, steps + 1)
    density = scale * (1 + x * x / df) ** (-(df + 1) / 2)
    area = (density[0] + density[-1] + 4 * density[1:-1:2].sum() + 2 * density[2:-1:2].sum()) * (t / steps) / 3
    assert 0.5 + area == pytest.approx(p, abs=1e-7)
    assert st.t_cdf(t, df) == pytest.approx(p, abs=1e-9)
    assert st.t_cdf(-t, df) == pytest.approx(1 - p, abs=1e-9)


def test_t_tends_to_the_normal() -> None:
    assert st.t_quantile(0.975, 1e7) == pytest.approx(st.normal_quantile(0.975), abs=1e-6)
    assert st.t_cdf(math.inf, 3) == 1.0


# ----------------------------------------------------------------------------------------------------- means and clusters


def slow_jackknife(top: list[float], size: list[float], cluster: list[int]) -> float:
    """Leave each cluster out, compute the ratio again, take the spread."""
    names = sorted(set(cluster))

    def ratio_without(left_out: int | None) -> float:
        a = sum(t for t, c in zip(top, cluster, strict=True) if c != left_out)
        b = sum(s for s, c in zip(size, cluster, strict=True) if c != left_out)
        return a / b

    whole = ratio_without(None)
    g = len(names)
    return math.sqrt((g - 1) / g * sum((ratio_without(c) - whole) ** 2 for c in names))


def test_ratio_is_the_jackknife() -> None:
    rng = random.Random(1)
    cluster = [c for c in range(7) for _ in range(rng.randint(2, 9))]
    top = [rng.gauss(3, 1) for _ in cluster]
    size = [float(rng.randint(1, 5)) for _ in cluster]
    got = st.ratio(np.array(top), np.array(size), np.array(cluster))
    assert got.value == pytest.approx(sum(top) / sum(size))
    assert got.se == pytest.approx(slow_jackknife(top, size, cluster), rel=1e-12)
    sizes = [sum(s for s, c in zip(size, cluster, strict=True) if c == g) for g in range(7)]
    effective = sum(sizes) ** 2 / sum(s * s for s in sizes)
    assert got.df == pytest.approx(effective - 1)
    half = st.t_quantile(0.975, effective - 1) * got.se
    assert (got.low, got.high) == (pytest.approx(got.value - half), pytest.approx(got.value + half))


def test_equal_clusters_give_cr1() -> None:
    """SE² = G/(G−1) · 1/n² · Σ_g (Σ_{i in g} (d_i − mean))², t with G − 1."""
    rng = random.Random(2)
    groups = [[rng.gauss(m, 1) for _ in range(4)] for m in (0.0, 1.0, 0.5, -1.0, 0.2)]
    flat = [x for group in groups for x in group]
    mean = sum(flat) / 20
    square = 5 / 4 / 20**2 * sum(sum(x - mean for x in group) ** 2 for group in groups)
    got = st.mean(np.array(flat), np.repeat(np.arange(5), 4))
    assert got.se == pytest.approx(math.sqrt(square))
    assert got.df == pytest.approx(4)


def test_single_cluster_knows_nothing_of_its_error() -> None:
    got = st.mean(np.array([1.0, 2.0]), np.array([3, 3]))
    assert got.value == 1.5
    assert (got.low, got.high) == (-math.inf, math.inf)
    assert got.bounds(0.5) == (-math.inf, math.inf)


def test_names_and_order_of_clusters_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=60), rng.integers(0, 9, 60)
    order = rng.permutation(60)
    one, two = st.mean(x, c), st.mean(x[order], (100 - 7 * c)[order])
    assert one.value == pytest.approx(two.value)
    assert one.se == pytest.approx(two.se)


@pytest.mark.parametrize(("clusters", "spread"), [(8, 0.0), (8, 1.0), (30, 1.0)])
def test_mean_covers_with_unequal_documents(clusters: int, spread: float) -> None:
    """95 % intervals of documents with log-normal lengths. CR1 with t at G − 1 covers about .88 for spread 1."""
    rng = np.random.default_rng(clusters)
    inside, reps = 0, 1500
    for _ in range(reps):
        length = np.maximum(3, np.exp(rng.normal(3, spread, clusters))).astype(int)
        document = np.repeat(np.arange(clusters), length)
        x = rng.normal(0, 0.5, clusters)[document] + rng.normal(size=len(document))
        got = st.mean(x, document)
        inside += got.low <= 0.0 <= got.high
    assert 0.93 <= inside / reps <= 0.98


# -------------------------------------------------------------------------------------------------------------- retention


def pair_of_models(
    rng: np.random.Generator, n: int, size: int, teacher: float, student: float, icc: float = 0.3, latent: float = 0.7
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right or wrong of two models with correlated normal variables behind, and a part shared by each cluster."""
    clusters = n // size
    index = np.repeat(np.arange(clusters), size)
    share = icc if size > 1 else 0.0
    z = []
    common = rng.normal(size=n), rng.normal(size=clusters)
    for _ in range(2):
        own = rng.normal(size=n), rng.normal(size=clusters)
        mix = [math.sqrt(latent) * c + math.sqrt(1 - latent) * o for c, o in zip(common, own, strict=True)]
        z.append(math.sqrt(1 - share) * mix[0] + math.sqrt(share) * mix[1][index])
    t = (z[0] < st.normal_quantile(teacher)).astype(float)
    s = (z[1] < st.normal_quantile(student)).astype(float)
    return t, s, index


@pytest.mark.parametrize("n", [100, 300])
@pytest.mark.parametrize("size", [1, 5])
def test_retention_covers_and_seldom_passes_wrongly(n: int, size: int) -> None:
    """True retention is the threshold itself: 95 % intervals must cover it, PASS and FAIL are both wrong."""
    rng = np.random.default_rng(n + size)
    teacher, floor, threshold, reps = 0.7, 0.25, 0.9, 2000
    student = floor + threshold * (teacher - floor)
    inside = passed = failed = 0
    for _ in range(reps):
        t, s, index = pair_of_models(rng, n, size, teacher, student)
        got = st.retention(t, s, floor, index, threshold=threshold)
        inside += got.low <= threshold <= got.high
        passed += got.verdict == "PASS"
        failed += got.verdict == "FAIL"
    assert 0.93 <= inside / reps <= 0.97
    assert passed / reps <= 0.065
    assert failed / reps <= 0.065


def test_few_clusters_seldom_pass_wrongly() -> None:
    """Ten documents: the exact sign-flip test decides."""
    rng = np.random.default_rng(7)
    passed = failed = reps = 0
    for _ in range(1500):
        t, s, index = pair_of_models(rng, 200, 20, 0.7, 0.25 + 0.9 * 0.45)
        got = st.retention(t, s, 0.25, index, threshold=0.9)
        reps += 1
        passed += got.verdict == "PASS"
        failed += got.verdict == "FAIL"
    assert passed / reps <= 0.065
    assert failed / reps <= 0.065


def test_a_teacher_at_the_floor_is_uninformative() -> None:
    rng = np.random.default_rng(3)
    verdicts = []
    for _ in range(200):
        t, s, index = pair_of_models(rng, 200, 1, 0.26, 0.26)
        got = st.retention(t, s, 0.25, index)
        verdicts.append(got.verdict)
        if got.verdict == "UNINFORMATIVE":
            assert math.isnan(got.value) and (got.low, got.high) == (-math.inf, math.inf)
    assert verdicts.count("UNINFORMATIVE") >= 195


def test_two_and_a_half_standard_errors_are_not_enough() -> None:
    """Well above the margin, with a lower bound above it, but not surely above the floor."""
    for distance, expected in ((2.5, "UNINFORMATIVE"), (3.5, "PASS")):
        spread = np.tile([1.0, -1.0], 200)
        t = spread + distance * float(np.std(spread, ddof=1)) / 20  # standard error: SD / √400
        assert st.retention(t, t, 0.0, np.arange(400), margin=0.01).verdict == expected


def test_the_margin_alone_makes_uninformative() -> None:
    """Sure to be above the floor, but by too little to matter."""
    rng = np.random.default_rng(0)
    t = 0.02 + rng.normal(0, 0.001, 500)
    assert st.retention(t, t, 0.0, np.arange(500), margin=0.03).verdict == "UNINFORMATIVE"
    assert st.retention(t, t, 0.0, np.arange(500), margin=0.01).verdict == "PASS"


@pytest.mark.parametrize("clusters", [6, 40])
def test_teacher_against_itself_keeps_everything(clusters: int) -> None:
    rng = np.random.default_rng(1)
    t = (rng.random(clusters * 20) < 0.7).astype(float)
    got = st.retention(t, t.copy(), 0.25, np.repeat(np.arange(clusters), 20))
    assert got.value == 1.0
    assert (got.low, got.high) == (pytest.approx(1.0), pytest.approx(1.0))
    assert got.verdict == "PASS"


@pytest.mark.parametrize("clusters", [10, 80])
def test_half_the_skill_fails(clusters: int) -> None:
    rng = np.random.default_rng(2)
    t, s, index = pair_of_models(rng, clusters * 20, 20, 0.7, 0.25 + 0.45 / 2)
    assert st.retention(t, s, 0.25, index).verdict == "FAIL"


def test_losses_are_gains_turned_round() -> None:
    rng = np.random.default_rng(4)
    index = np.repeat(np.arange(30), 10)
    t, s, f = rng.gamma(2, 1, 300), rng.gamma(2.2, 1, 300), 4 + rng.normal(size=300)
    weight = rng.integers(1, 5, 300).astype(float)
    down = st.retention(t, s, f, index, size_N=weight, lower_is_better=True)
    up = st.retention(-t, -s, -f, index, size_N=weight)
    assert down == up
    assert down.value == pytest.approx((f - s).sum() / (f - t).sum())


def test_fieller_set_by_scanning_it() -> None:
    """Try many R: is S − R·T further from 0 than t · its jackknife error?"""
    rng = random.Random(5)
    cluster = [c for c in range(12) for _ in range(rng.randint(3, 8))]
    level = {c: rng.gauss(0, 0.3) for c in range(12)}
    t = [2.0 + level[c] + rng.gauss(0, 1) for c in cluster]
    s = [1.7 + level[c] + rng.gauss(0, 1) for c in cluster]
    sizes = [cluster.count(c) for c in range(12)]
    df = sum(sizes) ** 2 / sum(x * x for x in sizes) - 1
    quantile = st.t_quantile(0.975, df)
    inside = []
    for step in range(4000, 14000):
        r = step / 10_000
        d = [b - r * a for a, b in zip(t, s, strict=True)]
        if abs(sum(d) / len(d)) <= quantile * slow_jackknife(d, [1.0] * len(d), cluster):
            inside.append(r)
    got = st.retention(np.array(t), np.array(s), 0.0, np.array(cluster))
    assert got.low == pytest.approx(min(inside), abs=2e-4)
    assert got.high == pytest.approx(max(inside), abs=2e-4)
    assert got.value == pytest.approx(sum(s) / sum(t))


def test_verdict_is_the_90_percent_fieller_set() -> None:
    rng = np.random.default_rng(6)
    seen = set()
    for student in np.linspace(0.5, 0.75, 40):
        t, s, index = pair_of_models(rng, 400, 1, 0.7, float(student))
        got = st.retention(t, s, 0.25, index, confidence=0.9)
        expected = "PASS" if got.low > 0.9 else "FAIL" if got.high < 0.9 else "INCONCLUSIVE"
        assert got.verdict == expected
        seen.add(expected)
    assert seen == {"PASS", "FAIL", "INCONCLUSIVE"}


def test_one_document_is_not_measured() -> None:
    got = st.retention(np.ones(5), np.ones(5), 0.0, np.zeros(5))
    assert got.verdict == "NOT MEASURED"
    assert math.isnan(got.value)


def test_sign_flip_by_enumeration() -> None:
    totals = [0.5, -0.1, 0.9, 0.3, 0.0, 0.7]
    sums = [sum(s * x for s, x in zip(signs, totals, strict=True)) for signs in itertools.product((1, -1), repeat=6)]
    above = sum(x >= sum(totals) - 1e-12 for x in sums) / len(sums)
    below = sum(x <= sum(totals) + 1e-12 for x in sums) / len(sums)
    assert st.sign_flip(np.array(totals)) == (pytest.approx(above), pytest.approx(below))


def test_four_clusters_decide_nothing_five_can() -> None:
    assert st.sign_flip(np.ones(4))[0] > 0.05
    assert st.sign_flip(np.ones(5))[0] <= 0.05


def loop_t(top: list[float], size: list[float]) -> tuple[float, float]:
    """A ratio of sums and its jackknife error."""
    return sum(top) / sum(size), slow_jackknife(top, size, list(range(len(top))))


def test_studentised_by_drawing_in_a_loop() -> None:
    """Each replicate's distance from the observed ratio in its own jackknife errors; how many reach the observed t."""
    rng = random.Random(11)
    top, size = [rng.gauss(0.4, 1) ** 3 for _ in range(9)], [float(rng.randint(2, 6)) for _ in range(9)]
    value, error = loop_t(top, size)
    drawn = np.random.default_rng(0).integers(0, 9, (1999, 9)).tolist()
    above = below = 1
    for rows in drawn:
        again, own = loop_in_turn([top[i] for i in rows], [size[i] for i in rows])
        t = (again - value) / own if own else math.copysign(math.inf, again - value)
        above += t >= value / error
        below += t <= value / error
    assert st.studentised(np.array(top), np.array(size)) == (pytest.approx(above / 2000), pytest.approx(below / 2000))
    assert st.studentised(np.ones(5), np.ones(5)) == (0.0, 1.0)


def loop_in_turn(top: list[float], size: list[float]) -> tuple[float, float]:
    """As ``loop_t``; the jackknife of a ratio is linear in what is left out: (A_g − R·B_g) / (B − B_g)."""
    g, whole = len(top), sum(size)
    value = sum(top) / whole
    square = sum(((a - value * b) / (whole - b)) ** 2 for a, b in zip(top, size, strict=True))
    return value, math.sqrt((g - 1) / g * square)


def test_both_tests_must_agree_where_clusters_are_few_and_skewed() -> None:
    """A few clusters far below the rest: t says PASS, drawing says that it may be luck."""
    d = np.array([0.3] * 27 + [-1.2] * 3)
    one = st.mean(d, np.arange(30))
    p_t, p_drawn = st.t_tests(one)[0], st.studentised(d, np.ones(30))[0]
    assert p_t < p_drawn
    got = st.retention(np.full(30, 1.0), 0.9 + d, 0.0, np.arange(30), threshold=0.9)
    assert got.p_above == pytest.approx(p_drawn)


def test_a_difference_has_the_errors_of_both() -> None:
    """Each bound is as far as the two bounds that lead there, at right angles (Zou and Donner)."""
    rng = np.random.default_rng(8)
    parts = []
    for n, share in ((400, 0.8), (150, 0.6)):
        t = (rng.random(n) < 0.8).astype(float)
        parts.append(st.retention(t, t * (rng.random(n) < share), 0.0, np.arange(n)))
    one, other = parts
    got = st.difference(one, other)
    assert got.value == pytest.approx(one.value - other.value)
    assert (got.value - got.low) ** 2 == pytest.approx((one.value - one.low) ** 2 + (other.high - other.value) ** 2)
    assert (got.high - got.value) ** 2 == pytest.approx((one.high - one.value) ** 2 + (other.value - other.low) ** 2)


def test_further_holds_whatever_the_signs_are() -> None:
    """The upper bound is that of the worse sign: near 0 the student may lean the other way, and then what it shares with the teacher adds
    up instead of falling out."""
    shared = np.random.default_rng(0).normal(size=200)
    shared -= shared.mean()
    teacher, student, index = shared + 0.5, 0.9 * shared + 0.02, np.arange(200)
    value, _, high = st.further(student, teacher, index)
    assert value.value == pytest.approx(0.02 - 0.5)
    seen, other = (st.mean(sign * student - teacher, index).bounds(0.95)[1] for sign in (1.0, -1.0))
    assert high == pytest.approx(other)
    assert other > seen + 0.1


def test_shrunk_by_its_formula() -> None:
    """Normal–normal: the variance of the values less the mean of the squared errors lies between them; each is moved by what is known of it."""
    values, errors = [0.2, 0.9, 0.7, 0.95], [0.2, 0.05, 0.1, 0.02]
    middle = sum(values) / 4
    between = sum((v - middle) ** 2 for v in values) / 3 - sum(e * e for e in errors) / 4
    w = [1 / (between + e**2) for e in errors]
    centre = sum(a * b for a, b in zip(w, values, strict=True)) / sum(w)
    expected = [centre + between / (between + e**2) * (v - centre) for v, e in zip(values, errors, strict=True)]
    assert between > 0
    assert st.shrunk(values, errors) == pytest.approx(expected)


def test_shrunk_hides_none_that_is_gone() -> None:
    """Fourteen slices of which all is kept seem known exactly; the one of which nothing is kept stays the worst by far."""
    found = st.shrunk([1.0] * 14 + [0.05], [1e-6] * 14 + [0.1])
    assert found[-1] < 0.3 and min(found[:-1]) > 0.99


def test_five_percent_are_on_one_side() -> None:
    """1.85 standard errors are enough for a verdict (p = .032), 1.5 are not (.067), whichever way."""
    noise = np.tile([0.2, -0.2], 200)
    error = float(np.std(noise, ddof=1)) / 20
    for distance, expected in ((1.85, "PASS"), (1.5, "INCONCLUSIVE"), (-1.5, "INCONCLUSIVE"), (-1.85, "FAIL")):
        got = st.retention(np.ones(400), 0.9 + noise + distance * error, 0.0, np.arange(400), threshold=0.9)
        assert got.verdict == expected


# -------------------------------------------------------------------------------------------------------------- bootstrap


def test_bootstrap_error_of_a_mean_is_the_analytic_one() -> None:
    """The SD of the replicates, not that divided by √B; the bootstrap's own factor is √((G−1)/G)."""
    rng = np.random.default_rng(0)
    x, index = rng.normal(size=200), np.repeat(np.arange(40), 5)
    totals = st.cluster_totals(x, index, 40)
    got = st.bootstrap(lambda w: w @ totals / (5 * w.sum(axis=1)), 40, replicates=6000)
    analytic = st.mean(x, index)
    assert got.value == pytest.approx(analytic.value)
    assert got.se == pytest.approx(analytic.se * math.sqrt(39 / 40), rel=0.04)
    assert got.low == pytest.approx(analytic.low, abs=0.15 * analytic.se)
    assert got.high == pytest.approx(analytic.high, abs=0.15 * analytic.se)


def test_same_seed_same_replicates_for_all_statistics() -> None:
    drawn: list[list[np.ndarray]] = [[], []]
    for i in (0, 1):

        def statistic(w: np.ndarray, i: int = i) -> np.ndarray:
            drawn[i].append(w)
            return w[:, i] * 1.0

        st.bootstrap(statistic, 6, seed=3, replicates=50, kind="percentile")
    assert np.array_equal(drawn[0][1], drawn[1][1])
    assert np.all(drawn[0][1].sum(axis=1) == 6)
    other: list[np.ndarray] = []
    st.bootstrap(lambda w: other.append(w) or w[:, 0] * 1.0, 6, seed=4, replicates=50, kind="percentile")  # type: ignore[func-returns-value]
    assert not np.array_equal(drawn[0][1], other[1])


def test_bca_by_its_definition() -> None:
    """A skewed statistic; replicates drawn and corrected in loops."""
    values = [math.exp(math.sin(7.3 * i)) ** 1.7 for i in range(12)]  # no two draws tie
    g, replicates = len(values), 400

    def statistic(weights: list[float]) -> float:
        mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        return mean**2

    rng = np.random.default_rng(9)
    found = []
    for _ in range(replicates):
        weights = [0.0] * g
        for i in rng.integers(0, g, g):
            weights[i] += 1
        found.append(statistic(weights))
    whole = statistic([1.0] * g)
    z0 = st.normal_quantile(sum(f < whole for f in found) / replicates)
    left_out = [statistic([float(j != i) for j in range(g)]) for i in range(g)]
    centre = sum(left_out) / g
    a = sum((centre - x) ** 3 for x in left_out) / (6 * sum((centre - x) ** 2 for x in left_out) ** 1.5)
    reach = st.t_quantile(0.975, g - 1) * math.sqrt(g / (g - 1))
    levels = [st.normal_cdf(z0 + (z0 + z) / (1 - a * (z0 + z))) for z in (-reach, reach)]
    low, high = np.quantile(found, levels)

    array = np.array(values)
    got = st.bootstrap(lambda w: (w @ array / w.sum(axis=1)) ** 2, g, seed=9, replicates=replicates)
    assert (got.low, got.high) == (pytest.approx(low), pytest.approx(high))
    assert got.se == pytest.approx(np.std(found, ddof=1))


@pytest.mark.parametrize("level", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("n", [7, 3000])
def test_weighted_quantile_by_writing_the_items_out(level: float, n: int) -> None:
    rng = np.random.default_rng(n)
    values, cluster = rng.normal(size=n).round(1), rng.integers(0, 5, n)
    names = sorted(set(cluster.tolist()))
    weights = rng.integers(0, 4, (6, len(names))).astype(float)
    weights[:, 0] += 1
    got = st.quantile_statistic(values, cluster, level)(weights)
    for row, found in zip(weights, got, strict=True):
        written = sorted(v for v, c in zip(values, cluster, strict=True) for _ in range(int(row[names.index(c)])))
        assert found == written[max(0, math.ceil(level * len(written) - 1e-9) - 1)]


def test_bootstrap_of_one_cluster_knows_nothing() -> None:
    got = st.bootstrap(lambda w: w[:, 0], 1)
    assert (got.value, got.low, got.high) == (1.0, -math.inf, math.inf)


# -------------------------------------------------------------------------------------------------- counts, multiplicity


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (0, 5), (3, 3), (2, 7), (9, 3), (6, 5)])
def test_mcnemar_by_writing_out_all_coins(lost: int, gained: int) -> None:
    """Twice (P(fewer) + half of P(as many)) heads among all sequences of fair coins."""
    trials, k = lost + gained, min(lost, gained)
    fewer = same = 0
    for coins in itertools.product((0, 1), repeat=trials):
        fewer += sum(coins) < k
        same += sum(coins) == k
    assert st.mcnemar(lost, gained) == pytest.approx(2 * (fewer + same / 2) / 2**trials)


def test_mcnemar_of_many() -> None:
    """No overflow; the normal's answer."""
    z = 200 / math.sqrt(20_000)
    assert st.mcnemar(9_900, 10_100) == pytest.approx(2 * (1 - st.normal_cdf(z)), rel=1e-3)


def test_wilson_solves_its_equation() -> None:
    """The bounds are the shares p with |k/n − p| = z · √(p(1−p)/n)."""
    for k, n in ((8, 10), (1, 50), (300, 700)):
        for p in st.wilson(k, n):
            assert abs(k / n - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / n), rel=1e-5)
    assert st.wilson(0, 20)[0] == 0.0
    assert st.wilson(20, 20)[1] == 1.0
    assert st.wilson(0, 0) == (0.0, 1.0)


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert st.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.benjamini_hochberg(p) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert st.holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert st.benjamini_hochberg([0.6, 0.9]) == pytest.approx([0.9, 0.9])
    assert st.holm([]) == st.benjamini_hochberg([]) == []


# ---------------------------------------------------------------------------------------------------------------- planning


@pytest.mark.parametrize(
    ("teacher", "floor", "threshold", "kept", "items"),
    [
        (0.7, 0.5, 0.95, 1.0, 12_895),
        (0.7, 0.5, 0.9, 0.97, 6_321),
        (0.53, 0.25, 0.8, 0.95, 745),
        (0.92, 0.5, 0.9, 1.0, 285),
    ],
)
def test_items_needed(teacher: float, floor: float, threshold: float, kept: float, items: int) -> None:
    got = st.items_needed(teacher=teacher, floor=floor, threshold=threshold, true_retention=kept)
    assert got == pytest.approx(items, rel=0.005)


def test_the_plan_has_the_power_it_promises() -> None:
    n = st.items_needed(teacher=0.8, floor=0.0, threshold=0.8, true_retention=0.95)
    assert n is not None
    rng = np.random.default_rng(0)
    passed = 0
    for _ in range(600):
        t, s, index = pair_of_models(rng, n, 1, 0.8, 0.76)
        passed += st.retention(t, s, 0.0, index, threshold=0.8).verdict == "PASS"
    assert passed / 600 == pytest.approx(0.8, abs=0.05)


def test_no_number_of_items_passes_what_is_lost() -> None:
    assert st.items_needed(teacher=0.7, floor=0.5, threshold=0.9, true_retention=0.9) is None
    assert st.items_needed(teacher=0.5, floor=0.5) is None


def test_clusters_needed_by_its_formula() -> None:
    """For many clusters t quantiles are the normal's: n = ((1.6449 + 0.8416) · spread / effect)²."""
    d = st.Interval(0.05, 0.0, 0.0, 1.0 / math.sqrt(400), 400, 399)
    assert st.clusters_needed(d) == pytest.approx(((1.6448536 + 0.8416212) * 1.0 / 0.05) ** 2, rel=0.002)


def test_clusters_needed_has_the_power_it_promises() -> None:
    rng = np.random.default_rng(1)
    true = st.Interval(0.5, 0.0, 0.0, 2.0 / math.sqrt(50), 50, 49)  # effect 0.5, a cluster's spread 2
    n = st.clusters_needed(true)
    assert n is not None
    hits = 0
    for _ in range(1000):
        d = st.mean(rng.normal(0.5, 2.0, n), np.arange(n))
        hits += d.value / d.se > st.t_quantile(0.95, n - 1)
    assert hits / 1000 == pytest.approx(0.8, abs=0.04)
    assert st.clusters_needed(st.Interval(0.0, 0, 0, 1.0, 5, 4)) is None
    assert st.clusters_needed(st.Interval(1e-9, 0, 0, 1.0, 5, 4)) is None
