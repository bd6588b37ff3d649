"""Methods that go up on the forgotten or down on the retained, against their recurrences by hand."""

import torch
from torch import Tensor, nn

from app.domain.methods import Descent
from tests.support.gradient import small_net
from tests.support.gradient_methods import SIDES, prepared, task_of, unlearned
from worker.unlearners.gradient.course import Course, Phase
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.records import Side, Sides, TensorRecords
from worker.unlearners.gradient.runner import begin, run_course

RATE = 0.05
PLAIN = Descent(learning_rate=RATE, momentum=0.0)
WHOLE = 1_000  # one batch holds a whole side, so its order does not matter
UNBOUNDED = 1e9


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


def gradient(net: nn.Module, side: Side) -> list[Tensor]:
    everyone = torch.arange(len(SIDES[side]))
    losses = nn.functional.cross_entropy(net(SIDES[side].inputs(everyone)), SIDES[side].targets(everyone))
    return list(torch.autograd.grad(losses, list(net.parameters())))


def assert_ends_at(found: nn.Module, expected: nn.Module) -> None:
    for own, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-10)


def down(net: nn.Module, directions: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, direction in zip(net.parameters(), directions, strict=True):
            parameter -= RATE * direction


def test_l1_sparse_is_descent_with_signs_that_fade_from_epoch_to_epoch() -> None:
    gamma, expected = 0.2, linear()
    for epoch in range(3):
        signs = [gamma * (1 - epoch / 3) * parameter.detach().sign() for parameter in expected.parameters()]
        down(expected, [g + s for g, s in zip(gradient(expected, Side.RETAIN), signs, strict=True)])
    found = unlearned(METHODS["l1_sparse"], task_of(linear()), gamma=gamma, batch_size=WHOLE, descent=PLAIN)
    assert_ends_at(found, expected)


def test_without_a_penalty_it_is_finetuning_bit_for_bit() -> None:
    first = unlearned(METHODS["l1_sparse"], task_of(), gamma=0.0)
    second = unlearned(METHODS["finetune"], task_of())
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_gradient_ascent_goes_up_by_the_norm_it_is_given() -> None:
    expected = linear()
    for _ in range(3):
        up = gradient(expected, Side.FORGET)
        size = torch.stack([g.norm() for g in up]).norm()
        down(expected, [-0.5 * g / size for g in up])
    found = unlearned(
        METHODS["gradient_ascent"],
        task_of(linear()),
        clip=0.5,
        lift=0.5,
        batch_size=WHOLE,
        descent=PLAIN,
    )
    assert_ends_at(found, expected)


def test_gradient_ascent_takes_the_forgotten_into_no_buffer() -> None:
    found = unlearned(METHODS["gradient_ascent"], task_of()).state_dict()
    before = dict(small_net().named_buffers())
    assert before
    assert all(torch.equal(found[name], buffer) for name, buffer in before.items())


def test_gradient_ascent_ends_when_the_forgotten_look_unseen() -> None:
    # The unseen inputs are the forgotten ones: what the net says of either is the same from the start.
    same = TensorRecords(SIDES[Side.FORGET].inputs(torch.arange(10)), torch.empty(0))
    for unseen, num_cycles in ((same, 1), (None, 3)):
        sides: Sides = {Side.FORGET: SIDES[Side.FORGET], **({Side.HELD_OUT: unseen} if unseen else {})}
        work = prepared(METHODS["gradient_ascent"], task_of(sides=sides), stops=True).work
        assert isinstance(work, Course)
        net = small_net()
        assert run_course(begin(net, work), work, sides, seed=0).cycle == num_cycles


def test_neggrad_plus_is_the_weighted_sum_of_both_gradients() -> None:
    share, expected = 0.8, linear()
    for _ in range(3):
        up, keep = gradient(expected, Side.FORGET), gradient(expected, Side.RETAIN)
        down(expected, [share * r - (1 - share) * f for f, r in zip(up, keep, strict=True)])
    found = unlearned(
        METHODS["neggrad_plus"],
        task_of(linear()),
        retain_share=share,
        clip=UNBOUNDED,
        lift=0.0,
        batch_size=WHOLE,
        descent=PLAIN,
    )
    assert_ends_at(found, expected)


def test_npo_begins_as_ascent_alone_because_the_divergence_has_no_gradient_yet() -> None:
    expected = linear()
    down(expected, [-g for g in gradient(expected, Side.FORGET)])
    settings = {"epochs": 1, "clip": UNBOUNDED, "batch_size": WHOLE, "descent": PLAIN}
    for weight in (0.0, 5.0):
        found = unlearned(METHODS["npo_klr"], task_of(linear()), retain_weight=weight, **settings)
        assert_ends_at(found, expected)


def test_npo_later_holds_the_retained_to_the_original() -> None:
    def drift(weight: float) -> float:
        inputs = SIDES[Side.RETAIN].inputs(torch.arange(20))
        found = unlearned(METHODS["npo_klr"], task_of(linear()), retain_weight=weight, epochs=30)
        before, after = linear()(inputs).log_softmax(1), found(inputs).log_softmax(1)
        return float(nn.functional.kl_div(after, before, log_target=True, reduction="batchmean").detach())

    assert drift(10.0) < 0.2 * drift(0.0)


def phases(name: str, **settings: object) -> tuple[Phase, ...]:
    work = prepared(METHODS[name], task_of(), **settings).work
    assert isinstance(work, Course)
    return tuple(work.cycle)


def test_an_epoch_meets_every_record_of_its_side_once() -> None:
    # Batches of 8: 3 hold the 20 retained, 2 the 10 forgotten.
    assert [(phase.name, phase.steps) for phase in phases("finetune")] == [("retain", 3)]
    assert [(phase.name, phase.steps) for phase in phases("scrub")] == [("retain", 3), ("forget", 2)]
    assert [(phase.name, phase.steps) for phase in phases("npo_klr")] == [("joint", 3)]
