"""Rates as functions of the step: tables, closed forms, torch's own scheduler, and no state."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet.config import OptimSpec
from alexnet.training.schedule import bias_learning_rate, learning_rate, plateaus

TOTAL, PER_EPOCH = 40, 10


def rate(spec, step, errors=()):
    return learning_rate(spec, step, TOTAL, PER_EPOCH, errors)


@pytest.mark.parametrize(
    ("fields", "table"),
    [
        ({"schedule": "constant"}, {0: 0.2, 39: 0.2}),
        ({"schedule": "step", "milestones": (1, 2.5)}, {0: 0.2, 9: 0.2, 10: 0.02, 24: 0.02, 25: 0.002, 39: 0.002}),
        ({"schedule": "step", "milestones": (9,)}, {39: 0.2}),
        ({"schedule": "one-cycle", "warmup": 0.25}, {0: 0.008, 9: 0.2, 39: 0.2 / 25e4, 24: 0.1 + 0.1 / 25e4}),
        ({"schedule": "one-cycle", "warmup": 0.0}, {39: 0.2 / 25e4}),
        ({"schedule": "cosine", "warmup": 0.0}, {0: 0.2, 10: 0.1 + 0.1 * math.sqrt(0.5), 20: 0.1}),
        ({"schedule": "poly", "warmup": 0.0}, {0: 0.2, 10: 0.2 * 0.75**2, 20: 0.05}),
        ({"schedule": "poly", "warmup": 0.25}, {0: 0.2 / 11, 4: 1 / 11, 9: 2 / 11, 10: 0.2, 25: 0.05}),
        ({"schedule": "cosine", "warmup": 0.25}, {0: 0.2 / 11, 4: 1 / 11, 9: 2 / 11, 10: 0.2, 25: 0.1}),
    ],
)
def test_tables(fields, table):
    spec = OptimSpec(lr=0.2, **fields)
    assert {step: rate(spec, step) for step in table} == pytest.approx(table, rel=1e-12)


@pytest.mark.parametrize("total", [5, 41, 460, 1875])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.3, 0.9])
def test_one_cycle_is_torch_s(total, warmup):
    spec = OptimSpec(lr=0.05, schedule="one-cycle", warmup=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, total_steps=total, pct_start=warmup, anneal_strategy="cos", cycle_momentum=False
    )
    for step in range(total):
        assert learning_rate(spec, step, total, 1, ()) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        if step < total - 1:
            scheduler.step()


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_cosine_is_its_closed_form(warmup):
    """Loshchilov and Hutter (2016), equation 5 with η_min = 0, after a straight line up."""
    spec = OptimSpec(lr=0.3, schedule="cosine", warmup=warmup)
    rise = warmup * TOTAL
    for step in range(TOTAL):
        line = 0.3 * (step + 1) / (rise + 1)
        bend = 0.15 * (1 + math.cos(math.pi * (step - rise) / (TOTAL - rise)))
        assert rate(spec, step) == pytest.approx(line if step < rise else bend, rel=1e-12)


@pytest.mark.parametrize(
    ("errors", "patience", "drops"),
    [
        ([], 2, 0),
        ([0.5, 0.4, 0.3], 2, 0),
        ([0.5, 0.5], 2, 0),
        ([0.5, 0.5, 0.5], 2, 1),
        ([0.5, 0.6, 0.4, 0.5, 0.4], 2, 1),  # an equal error is no improvement
        ([0.5, 0.6, 0.7, 0.6, 0.6], 2, 2),  # after a drop the count starts again, the best stays
        ([0.5, 0.6, 0.7, 0.4, 0.6], 2, 1),
        ([0.5, 0.5, 0.5, 0.5], 1, 3),
        ([0.0] * 20, 1, 19),
    ],
)
def test_plateaus_are_counted_from_the_history(errors, patience, drops):
    assert plateaus(errors, patience) == drops
    spec = OptimSpec(lr=1.0, schedule="plateau", patience=patience)
    assert rate(spec, 0, errors) == pytest.approx(10.0 ** -min(drops, 3), rel=1e-15)


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(1, 5))
def test_a_plateau_once_passed_stays_passed(errors, patience):
    spec = OptimSpec(lr=1.0, schedule="plateau", patience=patience)
    rates = [rate(spec, 0, errors[:seen]) for seen in range(len(errors) + 1)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] >= 1e-3


@given(
    st.sampled_from(["constant", "step", "plateau", "one-cycle", "cosine", "poly"]),
    st.floats(0, 0.99),
    st.integers(1, 500),
    st.data(),
)
def test_a_rate_depends_on_its_arguments_only_and_is_never_above_the_peak(schedule, warmup, total, data):
    spec = OptimSpec(lr=0.1, schedule=schedule, warmup=warmup, milestones=(2.0,))
    errors = [0.5, 0.4, 0.6]
    steps = data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=20))
    forward = [learning_rate(spec, step, total, 7, errors) for step in steps]
    backward = [learning_rate(spec, step, total, 7, errors) for step in reversed(steps)]
    assert forward == backward[::-1]
    assert errors == [0.5, 0.4, 0.6]
    assert all(0 < value <= 0.1 * (1 + 1e-12) for value in forward)


def test_biases_follow_the_weights_or_have_epochs_of_their_own():
    assert bias_learning_rate(OptimSpec(lr=0.01, bias_lr_mult=2.0), 0.001, 50) == pytest.approx(0.002)
    never = OptimSpec(lr=0.01, bias_lr_mult=2.0, bias_milestones=())
    assert bias_learning_rate(never, 1e-5, 90) == pytest.approx(0.02)  # as 2012's code ended
    once = OptimSpec(lr=0.01, bias_lr_mult=2.0, bias_milestones=(47.5,))
    assert [bias_learning_rate(once, 0.003, epoch) for epoch in (47, 47.5, 90)] == pytest.approx([0.02, 0.002, 0.002])


def test_a_step_divides_by_its_own_factor():
    """The unattended schedule of 2012's code: four rates from 0.01 to 0.01/250, equally far apart."""
    spec = OptimSpec(lr=0.01, schedule="step", milestones=(1, 2, 3), gamma=250 ** (-1 / 3))
    rates = [learning_rate(spec, step, 40, 10, []) for step in (0, 10, 20, 30)]
    assert rates == pytest.approx([0.01, 0.0015874, 0.00025198, 0.00004], rel=1e-4)
