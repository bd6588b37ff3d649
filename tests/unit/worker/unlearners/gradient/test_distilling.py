"""Methods with teachers: towards a net that knows nothing, or away from the original, which has to start."""

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from app.domain.methods import Descent
from tests.support.gradient import small_net
from tests.support.gradient_methods import SIDES, prepared, task_of, unlearned
from worker.unlearners.gradient.course import Course, Term
from worker.unlearners.gradient.losses import Divergence
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.records import Side

PLAIN = Descent(learning_rate=0.3, momentum=0.0)


def course_of(name: str, **settings: Any) -> Course:
    work = prepared(METHODS[name], task_of(fitted()), **settings).work
    assert isinstance(work, Course)
    return work


def fitted() -> nn.Module:
    """Return a net that is sure of every record, and without dropout."""
    return copy.deepcopy(_fitted())


@cache
def _fitted() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        losses = [nn.functional.cross_entropy(net(_inputs(side)), _labels(side)) for side in SIDES]
        torch.stack(losses).sum().backward()
        optimizer.step()
    return net


def apart(net: nn.Module, teacher: nn.Module, side: Side) -> float:
    """Return the mean KL(teacher || net) over a side."""
    with torch.no_grad():
        own, other = net(_inputs(side)).log_softmax(1), teacher(_inputs(side)).log_softmax(1)
    return float(nn.functional.kl_div(own, other, log_target=True, reduction="batchmean"))


def term_of(course: Course, side: Side) -> Term:
    (found,) = (
        term
        for phase in course.cycle
        for term in phase.terms
        if term.side is side and isinstance(term.loss, Divergence)
    )
    return found


def teacher_of(course: Course, side: Side) -> nn.Module:
    loss = term_of(course, side).loss
    assert isinstance(loss, Divergence)
    return loss.teacher


def test_taught_badly_the_net_knows_nothing_of_the_forgotten_and_the_rest_as_before() -> None:
    for name in ("bad_teacher", "stochastic_teacher"):
        bad = teacher_of(course_of(name), Side.FORGET)
        forget = {Side.FORGET: SIDES[Side.FORGET], Side.RETAIN: SIDES[Side.RETAIN]}
        found = unlearned(METHODS[name], task_of(fitted(), sides=forget), epochs=10, erase_epochs=10)
        assert apart(found, bad, Side.FORGET) < 0.7 * apart(fitted(), bad, Side.FORGET)
        assert apart(found, fitted(), Side.RETAIN) < 0.7 * apart(bad, fitted(), Side.RETAIN)


def test_the_stochastic_teacher_erases_before_the_first_epoch_and_never_again() -> None:
    course = course_of("stochastic_teacher", erase_epochs=4)
    first, later = course.phases_of(0), course.phases_of(1)
    assert [(phase.sides, phase.steps) for phase in first] == [((Side.FORGET,), 4 * 2), ((Side.RETAIN,), 3)]
    assert [phase.sides for phase in later] == [(Side.RETAIN,)]


def test_at_the_original_scrubs_forget_gradient_is_nothing() -> None:
    net = fitted()
    term, inputs = term_of(course_of("scrub"), Side.FORGET), _inputs(Side.FORGET)
    aims = term.loss.aims(SIDES[Side.FORGET], torch.arange(10), inputs)
    found = torch.autograd.grad(term.loss(net, inputs, aims).mean(), list(net.parameters()))
    assert max(float(gradient.abs().max()) for gradient in found) < 1e-12


def test_scrub_moves_away_from_the_original_all_the_same() -> None:
    found = unlearned(METHODS["scrub"], task_of(fitted()), msteps=4, epochs=6, descent=PLAIN)
    still = unlearned(METHODS["scrub"], task_of(fitted()), msteps=4, epochs=6, descent=PLAIN, lift=0.0)
    assert apart(found, fitted(), Side.FORGET) > 0.02
    assert apart(found, fitted(), Side.FORGET) > 10 * apart(still, fitted(), Side.FORGET)


def test_scrub_forgets_in_the_first_epochs_and_ends_with_the_retained() -> None:
    course = course_of("scrub", msteps=2, epochs=4)
    both, last = [(Side.RETAIN,), (Side.FORGET,)], [(Side.RETAIN,)]
    assert [[p.sides for p in course.phases_of(cycle)] for cycle in range(4)] == [both, both, last, last]


def test_scrubs_weights_are_those_of_its_terms() -> None:
    course = course_of("scrub", gamma=0.7, alpha=0.2, temperature=3.0)
    retain, forget = course.cycle
    assert [term.scale for term in retain.terms] == [0.7, 0.2 * 9.0]
    assert [term.scale for term in forget.terms] == [-9.0]


def test_teachers_of_other_seeds_are_others() -> None:
    def first(seed: int) -> Tensor:
        work = (
            METHODS["bad_teacher"]
            .prepare(task_of(small_net(), seed=seed), METHODS["bad_teacher"].settings())
            .work
        )
        assert isinstance(work, Course)
        return next(teacher_of(work, Side.FORGET).parameters())

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def _inputs(side: Side) -> Tensor:
    return SIDES[side].inputs(torch.arange(len(SIDES[side])))


def _labels(side: Side) -> Tensor:
    return SIDES[side].targets(torch.arange(len(SIDES[side])))
