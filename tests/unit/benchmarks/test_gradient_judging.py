"""What the comparison of gradient methods judges and counts by, against what is known of small cases."""

import copy

import torch
from torch import nn

from benchmarks.gradient.images import Images
from benchmarks.gradient.judging import mean_gap, member_share
from benchmarks.gradient.measuring import Trainer
from benchmarks.gradient.metering import metered
from benchmarks.gradient.scenarios import Kind, drawn
from benchmarks.gradient.training import shifted
from worker.unlearners.gradient.records import Side, TensorRecords


def test_the_attack_calls_member_whoever_fits_as_well_as_the_retained_do() -> None:
    members, others = torch.tensor([0.1, 0.2, 0.3, 2.0]), torch.tensor([0.35, 1.0, 1.5, 3.0])
    # 0.3 lets in three of four members and nobody else; 2.0 all of them and three others.
    losses = torch.tensor([0.0, 0.3, 0.31, 9.0])
    assert member_share(losses, members=members, others=others) == 0.5


def test_the_mean_gap_is_over_four_columns_and_has_no_sign() -> None:
    again = {"forget": 97.0, "retain": 100.0, "test": 96.0, "member": 70.0, "true": 0.0}
    own = {"forget": 93.0, "retain": 100.0, "test": 97.0, "member": 73.0, "true": 100.0}
    assert mean_gap(own, again) == 2.0


def test_copies_are_counted_and_passes_without_a_gradient_apart() -> None:
    net, inputs = nn.Linear(2, 2), torch.zeros(5, 2)
    with metered(net) as passes:
        net(inputs)
        teacher = copy.deepcopy(net)
        with torch.no_grad():
            teacher(inputs[:3])
    net(inputs)
    assert (passes.both, passes.forward) == (5, 3)


def images(*, has_test: bool) -> Images:
    labels = torch.arange(60) % 10
    is_test = (torch.arange(60) >= 40) & torch.tensor(has_test)
    inputs = torch.arange(60.0).reshape(60, 1, 1, 1)
    return Images("few", inputs, labels, is_test, num_training=30, num_gone=3, num_unseen=10, num_test=10)


def drawn_places(*, has_test: bool, kind: Kind) -> dict[str, set[int]]:
    scenario = drawn(images(has_test=has_test), kind, seed=3)
    unseen = scenario.sides[Side.HELD_OUT]
    assert isinstance(unseen, TensorRecords)
    parts = {**{name: x for name, (x, _) in scenario.judged.items()}, "unseen": unseen.all_inputs}
    return {name: set(x.flatten().int().tolist()) for name, x in parts.items()}


def test_nobody_unseen_or_tested_on_is_trained_on_and_test_images_stay_so() -> None:
    for has_test in (True, False):
        own = drawn_places(has_test=has_test, kind=Kind.ANYBODY)
        sizes = {name: len(places) for name, places in own.items()}
        assert sizes == {"forget": 3, "retain": 27, "test": 10, "unseen": 10}
        assert len(set.union(*own.values())) == 50
        if has_test:
            assert min(own["test"] | own["unseen"]) >= 40


def test_a_class_is_forgotten_whole_and_nobody_of_it_is_judged_elsewhere() -> None:
    own = drawn_places(has_test=True, kind=Kind.CLASS)
    assert {place % 10 for place in own["forget"]} == {3}
    assert all(place % 10 != 3 for name in ("retain", "test", "unseen") for place in own[name])


def test_scenarios_that_keep_the_same_records_share_the_training_without_the_others() -> None:
    trained: list[int] = []

    def train(records: TensorRecords, seed: int) -> nn.Module:
        trained.append(len(records))
        return nn.Linear(1, 10)

    trainer, few = Trainer(train), images(has_test=True)
    wrong, anybody = (
        trainer.draw(drawn(few, kind, seed=0), seed=0) for kind in (Kind.MISLABELLED, Kind.ANYBODY)
    )
    assert trained == [27, 27, 30, 30]
    assert (wrong.again, wrong.floor) == (anybody.again, anybody.floor)
    assert wrong.again is not wrong.floor
    assert wrong.original is not anybody.original


def test_wrong_labels_are_never_the_true_ones() -> None:
    scenario = drawn(images(has_test=True), Kind.MISLABELLED, seed=0)
    assert (scenario.judged["forget"][1] != scenario.judged["true"][1]).all()


def test_shifted_images_are_parts_of_the_padded_ones_and_half_of_them_mirrored() -> None:
    one = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8).expand(400, 3, 8, 8)
    moved = shifted(one, generator=torch.Generator().manual_seed(0))
    assert moved.shape == one.shape
    rises = (moved[:, 0].diff(dim=2) == 1).sum((1, 2)) > (moved[:, 0].diff(dim=2) == -1).sum((1, 2))
    assert 150 < int(rises.sum()) < 250
    # A shift of 0 in both directions, 1 of 81, leaves the whole image.
    assert any(torch.equal(each.sort().values, one[0, 0].flatten()) for each in moved[:, 0].flatten(1))
