"""The interval that the stitching table is judged by, against the closed form."""

import math
import statistics

import pytest
from scipy import stats

from benchmarks.stitch.figures import clustered_interval


@pytest.mark.parametrize("num_clusters", range(3, 12))
def test_the_interval_is_students_over_the_means_of_clusters(num_clusters: int) -> None:
    means = [math.sin(3.0 * number) for number in range(num_clusters)]
    spread = (-0.5, 0.1, 0.4)  # within a cluster it counts for nothing
    values = [mean + each for mean in means for each in spread]
    clusters = [number for number in range(num_clusters) for _ in spread]
    half = stats.t.ppf(0.975, num_clusters - 1) * statistics.stdev(means) / num_clusters**0.5
    low, high = clustered_interval(values, clusters)
    centre = statistics.fmean(means)
    assert (low, high) == pytest.approx((centre - half, centre + half), rel=1e-3)


def test_of_two_clusters_only_the_means_are_told() -> None:
    assert clustered_interval([1.0, 3.0, 10.0], [0, 0, 1]) == (2.0, 10.0)
