"""Residual feature alignment: what adapters change and do not change before and after they are merged."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from app.domain.methods import LoraResidualSettings
from tests.support.gradient import blobs, small_net
from worker.training.nets import lenet5
from worker.unlearners.gradient.course import Course
from worker.unlearners.gradient.method import Prepared, Task
from worker.unlearners.gradient.methods.lora_residual import (
    LORA_RESIDUAL,
    Adapter,
    Residual,
    features,
    nearest,
)
from worker.unlearners.gradient.records import Side, Sides, TensorRecords
from worker.unlearners.gradient.runner import begin, run_course
from worker.unlearners.gradient.state import pack_course, restore_course

SIDES: Sides = {Side.FORGET: blobs(10, seed=1), Side.RETAIN: blobs(60, seed=2)}
SETTINGS = LoraResidualSettings(rank=2, steps=4, batch_size=8)


def images(num: int, *, seed: int) -> TensorRecords:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(num, 1, 8, 8, generator=generator, dtype=torch.float64)
    return TensorRecords(inputs, torch.arange(num) % 10)


IMAGES: Sides = {Side.FORGET: images(8, seed=1), Side.RETAIN: images(24, seed=2)}
NETS = {
    "dense": (small_net, SIDES),
    "convolutional": (lambda: lenet5(image_size=8, batch_norm=True).double(), IMAGES),
}


def prepared(net: nn.Module, sides: Sides) -> Prepared:
    return LORA_RESIDUAL.prepare(Task(net, sides, num_classes=3, seed=0), SETTINGS)


def run(made: Prepared, sides: Sides) -> nn.Module:
    assert isinstance(made.work, Course)
    run_course(begin(made.net, made.work), made.work, sides, seed=0)
    return made.net


@pytest.mark.parametrize("name", NETS)
def test_before_the_first_step_it_answers_as_the_original_bit_for_bit(name: str) -> None:
    make, sides = NETS[name]
    net = make().eval()
    inputs = sides[Side.FORGET].inputs(torch.arange(8))
    assert torch.equal(prepared(net, sides).net.eval()(inputs), net(inputs))


@pytest.mark.parametrize("name", NETS)
def test_merged_it_has_the_originals_keys_and_classes_and_the_adapted_answers(name: str) -> None:
    make, sides = NETS[name]
    net = make()
    made = prepared(net, sides)
    adapted = run(made, sides).eval()
    inputs = sides[Side.FORGET].inputs(torch.arange(8))
    answers = adapted(inputs).detach()
    finished = made.finish(adapted)
    assert list(finished.state_dict()) == list(net.state_dict())
    assert [type(module) for module in finished.modules()] == [type(module) for module in net.modules()]
    assert not any(map(parametrize.is_parametrized, finished.modules()))
    assert all(parameter.requires_grad for parameter in finished.parameters())
    torch.testing.assert_close(finished.eval()(inputs).detach(), answers, rtol=0, atol=1e-12)
    assert float((answers - net.eval()(inputs).detach()).abs().max()) > 1e-3


def test_the_base_stays_the_original_until_it_is_merged_so_that_it_alone_has_forgotten_nothing() -> None:
    net = small_net()
    adapted = run(prepared(net, SIDES), SIDES)
    assert isinstance(adapted, nn.Sequential)
    base = adapted[0].parametrizations["weight"].original
    assert torch.equal(base, net[0].weight)
    assert not torch.equal(adapted[0].weight, base)
    for key, tensor in adapted.state_dict().items():
        if "parametrizations" not in key:
            assert torch.equal(tensor, net.state_dict()[key]), key


def test_neither_the_original_nor_the_teacher_is_touched_or_shared() -> None:
    net = small_net()
    before = copy.deepcopy(net.state_dict())
    made = prepared(net, SIDES)
    assert isinstance(made.work, Course)
    loss = made.work.cycle[0].terms[0].loss
    assert isinstance(loss, Residual)
    places = [{t.data_ptr() for t in each.state_dict().values()} for each in (net, made.net, loss.teacher)]
    assert len(set.union(*places)) == sum(map(len, places))
    run(made, SIDES)
    for each in (net, loss.teacher):
        assert all(torch.equal(tensor, before[key]) for key, tensor in each.state_dict().items())


def test_residuals_of_the_retained_are_nothing_at_the_start_and_features_have_their_closed_form() -> None:
    net = small_net().eval()
    inputs = SIDES[Side.RETAIN].inputs(torch.arange(6))
    torch.testing.assert_close(features(net, inputs), net[:4](inputs))  # type: ignore[index] # it is a row
    loss = Residual(net)
    aims = loss.aims(SIDES[Side.RETAIN], torch.arange(6), inputs)
    assert not loss(net, inputs, aims).any()
    far = loss(net, inputs, 2 * aims)
    torch.testing.assert_close(far.mean(), torch.tensor(0.25, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_forgotten_record_is_shifted_to_the_nearest_retained_one() -> None:
    forget, retain = SIDES[Side.FORGET], SIDES[Side.RETAIN]
    places = nearest(forget, retain)
    distances = torch.cdist(forget.inputs(torch.arange(10)), retain.inputs(torch.arange(60)))
    assert torch.equal(places, distances.argmin(1))
    net = small_net().eval()
    aims = Residual(net, places, retain).aims(forget, torch.tensor([3, 1]), torch.empty(0))
    expected = features(net, retain.inputs(places[torch.tensor([3, 1])]))
    assert torch.equal(aims, expected)


def test_the_nearest_are_found_across_chunks_of_either_side() -> None:
    forget, retain = images(600, seed=1), images(700, seed=2)
    distances = torch.cdist(forget.all_inputs.flatten(1), retain.all_inputs.flatten(1))
    assert torch.equal(nearest(forget, retain), distances.argmin(1))


def test_an_adapter_has_the_rank_that_it_says() -> None:
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    adapter = Adapter(weight, rank=2, scale=4.0, seed=0)
    assert torch.equal(adapter(weight), weight)
    with torch.no_grad():
        adapter.up_OR.normal_()
    change: Tensor = (adapter(weight) - weight).detach().flatten(1)
    assert int(torch.linalg.matrix_rank(change)) == 2
    torch.testing.assert_close(change, (2.0 * adapter.up_OR @ adapter.down_RI).detach())


def test_a_run_resumed_after_preparing_again_gives_the_same_bits() -> None:
    kept: list[bytes] = []
    made = prepared(small_net(), SIDES)
    assert isinstance(made.work, Course)
    state = begin(made.net, made.work)
    run_course(state, made.work, SIDES, seed=0, after_cycle=lambda at: kept.append(pack_course(at)))
    again = prepared(small_net(), SIDES)
    assert isinstance(again.work, Course)
    resumed = restore_course(kept[1], again.net, again.work)
    run_course(resumed, again.work, SIDES, seed=0)
    assert pack_course(resumed) == kept[-1]


def test_a_net_without_features_is_refused() -> None:
    with pytest.raises(ValueError, match="before its last linear"):
        prepared(nn.Sequential(nn.Linear(4, 3).double()), SIDES)
