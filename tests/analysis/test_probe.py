"""The linear probe: its folds, its scaler inside the fold, and scikit-learn's own cross-validation as a reference."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from alexnet.analysis.probe import choose_probe, fit_and_predict, make_folds, nested_score, score
from alexnet.core.errors import UserError
from alexnet.metrics.intervals import accuracy_interval

CLASSES = ("cat", "dog", "owl")


def draw(per_class=(20, 14, 9), units=12, seed=0):
    draws = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(per_class)), per_class)
    means = draws.normal(size=(len(per_class), units))
    features = (means[labels] + 1.5 * draws.normal(size=(len(labels), units))) * 10.0 ** draws.integers(-3, 3, units)
    order = draws.permutation(len(labels))
    return features[order].astype(np.float32), labels[order], np.arange(len(labels)).astype(np.uint64)


def test_the_score_is_that_of_scikit_learn():
    features, labels, groups = draw()
    folds = make_folds(labels, groups, CLASSES)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    predicted = cross_val_predict(classifier, features.astype(np.float64), labels, cv=folds)
    found = score(features, labels, folds)
    assert found.correct == (predicted == labels).sum()
    assert found.accuracy == found.correct / len(labels)
    assert found.interval == accuracy_interval(found.correct, len(labels))
    assert found.folds == tuple((predicted[test] == labels[test]).mean() for _, test in folds)
    assert found.converged
    assert 0.4 < found.accuracy < 1


def test_every_image_is_predicted_once_and_every_class_is_in_every_fold():
    _, labels, groups = draw()
    folds = make_folds(labels, groups, CLASSES)
    assert len(folds) == 5
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(labels)))
    for train, test in folds:
        assert not set(train) & set(test)
        assert set(labels[train]) == set(labels[test]) == {0, 1, 2}
    again = make_folds(labels, groups, CLASSES)
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(folds, again, strict=True))


@pytest.mark.parametrize(("smallest", "folds"), [(2, 2), (3, 3), (7, 5)])
def test_the_smallest_class_limits_the_folds(smallest, folds):
    _, labels, groups = draw((10, 8, smallest))
    found = make_folds(labels, groups, CLASSES)
    assert len(found) == folds
    assert all(2 in labels[train] for train, _ in found)


def test_equal_contents_are_in_one_fold():
    _, labels, groups = draw()
    groups[np.flatnonzero(labels == 0)[:6]] = 99
    groups[np.flatnonzero(labels == 1)[0]] = 99  # a copy in another class too
    for train, test in make_folds(labels, groups, CLASSES):
        assert not set(groups[train]) & set(groups[test])


def test_a_copy_does_not_help():
    """Labels are noise, and each image occurs twice: a copy in another fold would be predicted by memory."""
    draws = np.random.default_rng(0)
    features = np.repeat(draws.normal(size=(60, 400)), 2, axis=0).astype(np.float32)
    labels = np.repeat(draws.permutation(np.arange(60) % 2), 2)
    groups = np.repeat(np.arange(60), 2).astype(np.uint64)
    apart = score(features, labels, make_folds(labels, groups, CLASSES))
    together = score(features, labels, make_folds(labels, np.arange(120).astype(np.uint64), CLASSES))
    assert apart.accuracy < 0.7
    assert together.accuracy > 0.8


def test_the_scaler_sees_the_training_images_only():
    features, labels, _ = draw()
    train, test = features[:30], features[30:]
    predicted, _ = fit_and_predict(train, labels[:30], test)
    moved, _ = fit_and_predict(train, labels[:30], np.concatenate([test, 1e6 * np.ones_like(test)]))
    np.testing.assert_array_equal(moved[: len(test)], predicted)


@pytest.mark.parametrize(
    ("per_class", "copies", "message"),
    [
        ((5, 1), 0, "class 'dog' has only one image: cross-validation needs two or more"),
        ((5, 3), 3, r"class 'dog' has only one image \(the others are copies of it, or in one group with it\)"),
        ((5,), 0, "a probe needs two or more classes"),
    ],
)
def test_too_few_images_are_refused_by_name(per_class, copies, message):
    _, labels, groups = draw(per_class)
    groups[np.flatnonzero(labels == 1)[:copies]] = 99
    with pytest.raises(UserError, match=message):
        make_folds(labels, groups, CLASSES)


def test_a_fit_without_convergence_is_stated(monkeypatch):
    monkeypatch.setattr("alexnet.analysis.probe.ITERATIONS", 1)
    features, labels, groups = draw()
    assert not score(features, labels, make_folds(labels, groups, CLASSES)).converged


def test_another_layer_is_chosen_only_if_it_is_clearly_better():
    """By more than one standard error: of layers that are alike the first one, of a much better one that one."""
    draws, labels = np.random.default_rng(0), np.arange(60) % 3
    good = (draws.normal(size=(60, 8)) + 3 * np.eye(3, 8)[labels]).astype(np.float32)
    nearly = good + draws.normal(size=good.shape).astype(np.float32) / 10
    noise = draws.normal(size=(60, 8)).astype(np.float32)
    folds = make_folds(labels, np.arange(60).astype(np.uint64), CLASSES[:3])
    chosen = choose_probe({"first": nearly, "second": good}, labels, folds)
    assert (chosen.layer, chosen.regularization) == ("first", 0.01)
    assert choose_probe({"first": noise, "second": good}, labels, folds).layer == "second"
    assert choose_probe({"first": noise}, labels, []).accuracy == 0
    with pytest.raises(ValueError, match="no layer"):
        choose_probe({}, labels, folds)


def test_a_fold_that_leaves_one_class_predicts_that_class():
    """Large groups can do that; the log-probability of the other class is minus infinity."""
    labels, groups = np.array([1] * 51 + [0] * 30), np.array([1] * 50 + [2] * 11 + [3] * 20, np.uint64)
    features = {"layer": np.random.default_rng(0).normal(size=(81, 3)).astype(np.float32)}
    found = nested_score(features, labels, groups, ("a", "b"))
    assert all(np.isclose(np.exp(row).sum(), 1) for row in found.log_probabilities)


def test_nested_predictions_know_nothing_of_their_image():
    """With features of pure noise the accuracy is that of guessing, although the best of many layers is chosen."""
    draws, labels = np.random.default_rng(1), np.arange(120) % 2
    features = {f"layer {n}": draws.normal(size=(120, 4)).astype(np.float32) for n in range(6)}
    found = nested_score(features, labels, np.arange(120).astype(np.uint64), ("a", "b"))
    assert abs((found.log_probabilities.argmax(axis=1) == labels).mean() - 0.5) < 0.15
    np.testing.assert_allclose(np.exp(found.log_probabilities).sum(axis=1), 1)
    assert len(found.choices) == 5
    assert np.bincount(found.fold).tolist() == [24] * 5
