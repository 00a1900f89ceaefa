"""Intervals, tests and plans for paired, clustered scores. numpy only; no models, no files.

A question a file: ``means`` (how large, how sure), ``keeping`` (how much of the teacher's skill), ``together`` (over several
tasks), ``distance`` (further from 0), ``contrasts`` (inside a part against outside), ``signs`` and ``studentised`` (above or below 0), ``counts`` (lost and gained), ``resampling`` (whatever is not a mean), ``families`` (many
tests at once), ``shrinking`` (many estimates at once), ``planning`` (how many items it takes); ``distributions`` beneath them.
"""

from __future__ import annotations

from stillhouse.evaluate.statistics.contrasts import contrasts
from stillhouse.evaluate.statistics.counts import mcnemar, share, wilson
from stillhouse.evaluate.statistics.distance import further
from stillhouse.evaluate.statistics.distributions import normal_cdf, normal_quantile, t_cdf, t_quantile
from stillhouse.evaluate.statistics.families import benjamini_hochberg, holm
from stillhouse.evaluate.statistics.keeping import Retention, difference, fieller, retention
from stillhouse.evaluate.statistics.means import Interval, cluster_index, cluster_totals, mean, ratio
from stillhouse.evaluate.statistics.planning import clusters_needed, items_needed, smallest_decided
from stillhouse.evaluate.statistics.resampling import bootstrap, quantile_statistic
from stillhouse.evaluate.statistics.shrinking import shrunk
from stillhouse.evaluate.statistics.signs import sign_flip, t_tests
from stillhouse.evaluate.statistics.studentised import studentised
from stillhouse.evaluate.statistics.together import Together, together

__all__ = [
    "Interval",
    "Retention",
    "Together",
    "benjamini_hochberg",
    "bootstrap",
    "cluster_index",
    "cluster_totals",
    "clusters_needed",
    "contrasts",
    "difference",
    "fieller",
    "further",
    "holm",
    "items_needed",
    "mcnemar",
    "mean",
    "normal_cdf",
    "normal_quantile",
    "quantile_statistic",
    "ratio",
    "retention",
    "share",
    "shrunk",
    "sign_flip",
    "smallest_decided",
    "studentised",
    "t_cdf",
    "t_quantile",
    "t_tests",
    "together",
    "wilson",
]
