"""Selective Synaptic Dampening: its factors by the closed form, and what is measured."""

import torch

from app.domain.methods import SsdSettings
from tests.support.gradient import blobs, small_net
from worker.unlearners.gradient.edit import run_edit
from worker.unlearners.gradient.losses import CrossEntropy
from worker.unlearners.gradient.method import Task
from worker.unlearners.gradient.methods.ssd import SSD, Dampen, factor
from worker.unlearners.gradient.records import Side, Sides, TensorRecords
from worker.unlearners.gradient.statistics import mean_squares

FORGET, RETAIN = blobs(20, seed=1), blobs(60, seed=2)
SIDES: Sides = {Side.FORGET: FORGET, Side.RETAIN: RETAIN}


def test_factors_are_the_closed_form() -> None:
    forget = torch.tensor([10.0, 20.1, 40.0, 0.0, 3.0, 7.0])
    everybody = torch.tensor([1.0, 2.0, 1.0, 0.0, 100.0, 0.0])
    found = factor(forget, everybody, selection=10.0, dampening=2.0)
    expected = torch.tensor([1.0, 2 * 2.0 / 20.1, 2 * 1.0 / 40.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_factors_lie_between_0_and_1_whatever_the_settings() -> None:
    generator = torch.Generator().manual_seed(0)
    # Importance over forty orders of magnitude, with zeros.
    forget, everybody = 10.0 ** (torch.rand(2, 5_000, generator=generator) * 40 - 30)
    forget[:50], everybody[25:75] = 0.0, 0.0
    for selection, dampening in ((0.01, 1.0), (1.0, 1e6), (10.0, 0.1)):
        found = factor(forget, everybody, selection=selection, dampening=dampening)
        assert bool(((found >= 0) & (found <= 1)).all())
        assert bool((found[forget <= selection * everybody] == 1).all())
        assert bool((found < 1).any())


def test_every_weight_is_multiplied_with_the_factor_of_single_records_importance() -> None:
    net, before = small_net(), dict(small_net().named_parameters())
    settings = SsdSettings(selection=1.2)
    both = TensorRecords(
        torch.cat([FORGET.all_inputs, RETAIN.all_inputs]), torch.cat([FORGET.all_targets, RETAIN.all_targets])
    )
    forget, everybody = (mean_squares(net, CrossEntropy(), records) for records in (FORGET, both))
    edit = SSD.prepare(Task(net, SIDES, num_classes=3, seed=0), settings).work
    assert isinstance(edit, Dampen)
    edited = run_edit(net, edit, SIDES)
    for name, weight in net.named_parameters():
        factors = factor(forget[name], everybody[name], selection=1.2, dampening=1.0)
        torch.testing.assert_close(weight, before[name] * factors, rtol=0, atol=1e-12)
    assert 0 < edited.share < 1


def test_who_is_forgotten_too_often_for_the_ratio_dampens_nothing() -> None:
    net = small_net()
    # A quarter is forgotten: no importance to them exceeds four times that to everybody.
    edited = run_edit(net, Dampen(SsdSettings(selection=4.0)), SIDES)
    assert edited.moved == 0.0
