"""ROC, AUC and their intervals against direct computations, scikit-learn, SciPy and simulation."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from alexnet.metrics.intervals import accuracy_interval
from alexnet.metrics.roc import (
    RELIABILITY_BINS,
    OperatingPoint,
    auc,
    choose_threshold,
    curve,
    delong,
    measure,
)


def sample(seed, images=60, shift=1.0, levels=None):
    """Scores 0 … 1 and which images are positive; with ``levels``, many scores are equal."""
    random = np.random.default_rng(seed)
    positive = random.random(images) < 0.4
    positive[:2] = True, False
    scores = 1 / (1 + np.exp(-(random.normal(size=images) + shift * positive)))
    return (np.round(scores * levels) / levels if levels else scores), positive


@pytest.mark.parametrize("levels", [None, 5])
def test_auc_is_the_share_of_ordered_pairs(levels):
    for seed in range(5):
        scores, positive = sample(seed, levels=levels)
        ones, zeros = scores[positive][:, None], scores[~positive]
        direct = ((ones > zeros) + (ones == zeros) / 2).mean()
        assert auc(scores, positive) == pytest.approx(direct, abs=1e-12)
        assert delong(scores, positive)[0] == pytest.approx(direct, abs=1e-12)
        u = mannwhitneyu(scores[positive], scores[~positive]).statistic
        assert direct == pytest.approx(u / (positive.sum() * (~positive).sum()))


def test_weights_count_as_copies():
    scores, positive = sample(1, levels=6)
    times = np.random.default_rng(2).integers(0, 4, len(scores))
    copied = np.repeat(np.arange(len(scores)), times)
    assert auc(scores, positive, times.astype(float)) == pytest.approx(auc(scores[copied], positive[copied]))


@pytest.mark.parametrize("levels", [None, 4])
def test_delongs_variance_is_that_of_its_definition(levels):
    """Equations 4 and 5 of DeLong et al.: the variances of the structural components, pair by pair."""
    scores, positive = sample(3, levels=levels)
    ones, zeros = scores[positive][:, None], scores[~positive]
    pairs = (ones > zeros) + (ones == zeros) / 2
    m, n = pairs.shape
    v10, v01 = pairs.mean(axis=1), pairs.mean(axis=0)
    expected = ((v10 - pairs.mean()) ** 2).sum() / (m - 1) / m + ((v01 - pairs.mean()) ** 2).sum() / (n - 1) / n
    assert delong(scores, positive)[1] == pytest.approx(expected, abs=1e-15)


def test_delongs_interval_holds_the_true_area_in_about_95_of_100_samples():
    true = 0.7602  # Φ(1/√2) for two normal distributions that differ by one standard deviation
    inside = 0
    for seed in range(200):
        scores, positive = sample(1000 + seed, images=100)
        counted = measure(scores, positive, np.arange(100), None, 0)["auc"]
        inside += counted["low"] <= true <= counted["high"]
    assert 181 <= inside <= 198


def test_the_bootstrap_of_single_images_agrees_with_delong_and_wilson():
    scores, positive = sample(5, images=300)
    point = OperatingPoint(0.6, scores >= 0.6)
    single = measure(scores, positive, np.arange(300), point, 0)
    # One pair of equal units is enough for the bootstrap by patients.
    drawn = measure(scores, positive, np.r_[0, 0, 2:300], point, 0)
    assert not single["bootstrap"] and drawn["bootstrap"] and drawn["units"] == 299
    for name in ("auc", "sensitivity", "specificity"):
        assert drawn[name]["value"] == single[name]["value"]
        for end in ("low", "high"):
            assert drawn[name][end] == pytest.approx(single[name][end], abs=0.02)


def test_copies_of_images_do_not_make_an_interval_narrower():
    scores, positive = sample(6, images=80)
    once = measure(scores, positive, np.arange(80), None, 0)["auc"]
    copies = np.repeat(np.arange(80), 5)
    by_patient = measure(scores[copies], positive[copies], copies, None, 0)["auc"]
    naive = measure(scores[copies], positive[copies], np.arange(400), None, 0)["auc"]
    width = {name: each["high"] - each["low"] for name, each in
             {"once": once, "patients": by_patient, "naive": naive}.items()}  # fmt: skip
    assert width["naive"] < 0.6 * width["once"]
    assert width["patients"] == pytest.approx(width["once"], rel=0.15)


def test_the_operating_point_is_the_best_by_its_rule():
    for seed in range(6):
        scores, positive = sample(seed, levels=12)
        both = {t: ((scores >= t)[positive].mean(), (scores < t)[~positive].mean()) for t in np.unique(scores)}
        youden = choose_threshold(scores, positive, "youden", 0.9)
        assert sum(both[youden]) == pytest.approx(max(map(sum, both.values())))
        sensitive = choose_threshold(scores, positive, "sensitivity", 0.9)
        assert both[sensitive][0] >= 0.9
        assert both[sensitive][1] == max(specific for hit, specific in both.values() if hit >= 0.9)
    assert choose_threshold(scores, np.ones(len(scores), bool), "youden", 0.9) is None


def test_sensitivity_and_specificity_have_wilsons_intervals():
    scores, positive = sample(7)
    point = OperatingPoint(0.5, scores >= 0.5)
    counted = measure(scores, positive, np.arange(60), point, 0)
    hit = int((scores >= 0.5)[positive].sum())
    low, high = accuracy_interval(hit, int(positive.sum()))
    assert counted["sensitivity"] == {"value": hit / positive.sum(), "low": low, "high": high}
    assert counted["specificity"]["value"] == (scores < 0.5)[~positive].mean()
    assert counted["threshold"] == 0.5


def test_a_perfect_or_one_sided_sample_has_an_honest_answer():
    positive = np.arange(20) < 10
    perfect = measure(positive.astype(float), positive, np.arange(20), None, 0)
    assert perfect["auc"]["value"] == perfect["auc"]["high"] == 1.0
    assert perfect["auc"]["low"] == pytest.approx(accuracy_interval(10, 10)[0])
    assert measure((~positive).astype(float), positive, np.arange(20), None, 0)["auc"]["value"] == 0.0
    for units in (np.arange(20), np.zeros(20)):
        one_sided = measure(np.linspace(0, 1, 20), np.ones(20, bool), units, None, 0)
        assert one_sided["auc"] == {"value": None, "low": None, "high": None}


def test_the_curve_rises_from_zero_to_one_and_bounds_the_area():
    scores, positive = sample(8, levels=9)
    alarms, hits, thresholds = curve(scores, positive)
    assert (alarms[0], hits[0], alarms[-1], hits[-1]) == (0, 0, 1, 1)
    assert (np.diff(alarms) >= 0).all() and (np.diff(hits) >= 0).all() and (np.diff(thresholds) < 0).all()
    assert np.trapezoid(hits, alarms) == pytest.approx(auc(scores, positive))
    kept = measure(*sample(9, images=5000), np.arange(5000), None, 0)
    assert len(kept["curve"]["sensitivity"]) == 200
    assert sum(kept["reliability"]["images"]) == 5000
    assert len(kept["reliability"]["images"]) <= RELIABILITY_BINS


def test_the_same_seed_gives_the_same_interval():
    scores, positive = sample(10)
    units = np.arange(60) // 2
    assert measure(scores, positive, units, None, 3) == measure(scores, positive, units, None, 3)
    assert measure(scores, positive, units, None, 3)["auc"] != measure(scores, positive, units, None, 4)["auc"]
