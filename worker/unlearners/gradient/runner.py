"""The one runner of courses. Methods are data; what happens to weights happens here.

Promises: the same net, course, records and seed give the same bits, in one run or resumed after any cycle;
a mask is kept bit for bit; a loss that is not finite ends the course with an error. Never: a look at records
of a side that no phase names.

Shape suffixes: B records of a batch.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from worker.determinism import seed_generators
from worker.training.optimizers import build_optimizer, learning_rate
from worker.unlearners.gradient.course import Course, Gradients, Mode, Phase, Term
from worker.unlearners.gradient.diagnostics import Diagnostics, StepFigures, effective_records, norm
from worker.unlearners.gradient.masks import drift_outside, mask_gradients, masked_step
from worker.unlearners.gradient.moving import moving
from worker.unlearners.gradient.records import Side, Sides, Stream, seed_of

NORM_LAYERS = nn.modules.batchnorm._NormBase


class MethodBrokeDown(ValueError):
    """A method cannot go on, because a number is not finite or a matrix not positive definite."""


@dataclass
class CourseState:
    """A course under way: ``cycle`` is the next one, ``drawn`` counts the batches taken of each side.

    ``num_endings`` is how often the ending has been run.
    """

    net: nn.Module
    optimizers: dict[str, Optimizer]
    cycle: int = 0
    drawn: dict[Side, int] = field(default_factory=lambda: defaultdict(int))
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    is_stopped: bool = False
    num_endings: int = 0


AfterCycle = Callable[[CourseState], None]
"""Called after each cycle with the state to resume from; it may raise to stop the run."""


def begin(net: nn.Module, course: Course) -> CourseState:
    """Return the state before the first cycle; the net is changed in place from then on."""
    parameters = [parameter for _, parameter in moving(net)]
    optimizers = {name: build_optimizer(part, parameters) for name, part in course.optimizers.items()}
    return CourseState(net=net, optimizers=optimizers)


def run_course(
    state: CourseState, course: Course, sides: Sides, *, seed: int, after_cycle: AfterCycle | None = None
) -> CourseState:
    """Run the course from ``state.cycle`` to its end, in place, and return the state.

    Raises:
        MethodBrokeDown: a loss or a gradient was not finite; the phase and cycle are named.
    """
    run = _Run(course, _streams(course, sides, seed=seed), seed=seed)
    while True:
        while state.cycle < course.repeats and not state.is_stopped:
            run.whole_cycle(state)
            if after_cycle is not None:
                after_cycle(state)
        if not course.ending:
            return state
        run.phases(state, course.ending)
        state.num_endings += 1
        if not state.is_stopped:
            return state
        # What follows the last cycle may bring back what was forgotten, and is what is published.
        state.is_stopped = _is_reached(course, state.net)
        if state.is_stopped or state.cycle >= course.repeats or state.num_endings >= course.most_endings:
            return state


@dataclass
class _Run:
    course: Course
    streams: Mapping[Side, Stream]
    seed: int
    _seen: dict[bool, Gradients] = field(init=False, default_factory=dict)

    def whole_cycle(self, state: CourseState) -> None:
        """Run one cycle with its slow step, and look whether it is the last."""
        anchor = _copies(state.net) if self.course.slow_rate != 1.0 else None
        self.cycle(state)
        if anchor is not None:
            _slow(state.net, anchor, rate=self.course.slow_rate)
        state.cycle += 1
        state.is_stopped = _is_reached(self.course, state.net)

    def cycle(self, state: CourseState) -> None:
        """Run every phase once; the last gradients of either kind are compared."""
        self._seen.clear()
        self.phases(state, self.course.phases_of(state.cycle))
        state.diagnostics.compare(self._seen.get(True), self._seen.get(False))

    def phases(self, state: CourseState, phases: Iterable[Phase]) -> None:
        """Run phases one after another."""
        for phase in phases:
            before = _copies(state.net) if phase.is_masked else None
            for step in range(phase.steps):
                self._step(state, phase, step=step)
            if before is not None:
                state.diagnostics.drifted(drift_outside(before, _copies(state.net), self._mask(phase)))

    def _step(self, state: CourseState, phase: Phase, *, step: int) -> None:
        device = next(state.net.parameters()).device
        seed_generators(seed_of(self.seed, phase.name, state.cycle, step), device)
        progress = state.cycle / self.course.repeats
        optimizer = state.optimizers[phase.optimizer]
        with _in_mode(state.net, phase.mode):
            objective, effective, num = self._objective(state, phase, progress=progress)
        optimizer.zero_grad(set_to_none=True)
        objective.backward()
        gradients = _gradients(state.net)
        if phase.is_masked:
            mask_gradients(gradients, self._mask(phase))
        if phase.project is not None:
            phase.project(gradients)
        size, loss = norm(gradients), float(objective.detach())
        if not (math.isfinite(size) and math.isfinite(loss)):
            raise MethodBrokeDown(f"{phase.name}, cycle {state.cycle}: the loss is not finite any more")
        factor = _bound(gradients, phase, size=size, progress=progress)
        self._note(state, phase, gradients, step=step)
        state.diagnostics.add(
            StepFigures(phase.name, loss, size, factor, _forgets(phase), batch=num, effective=effective)
        )
        self._set_rate(optimizer, phase, step=step)
        if phase.is_masked:
            masked_step(optimizer, dict(moving(state.net)), self._mask(phase))
        else:
            optimizer.step()

    def _set_rate(self, optimizer: Optimizer, phase: Phase, *, step: int) -> None:
        part = self.course.optimizers[phase.optimizer]
        rate = learning_rate(part, phase.schedule, step=step, num_steps=phase.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate

    def _objective(
        self, state: CourseState, phase: Phase, *, progress: float
    ) -> tuple[Tensor, float | None, int]:
        """Return what is descended, the least effective records of a weighted term, and records met."""
        total = torch.zeros((), device=next(state.net.parameters()).device)
        effective: list[float] = []
        num = 0
        for side in phase.sides:
            stream = self.streams[side]
            indices_B = stream.indices(state.drawn[side])
            state.drawn[side] += 1
            inputs = stream.records.inputs(indices_B)
            num += len(indices_B)
            state.diagnostics.met(side, len(indices_B))
            for term in (term for term in phase.terms if term.side is side):
                aims = term.loss.aims(stream.records, indices_B, inputs)
                losses_B = term.loss(state.net, inputs, aims)
                mean, ess = _weighted_mean(term, losses_B)
                effective += [] if ess is None else [ess]
                total = total + term.scale * phase.fade.at(progress) * mean
        if phase.penalty is not None:
            total = total + phase.penalty(state.net, progress)
        return total, min(effective, default=None), num

    def _note(self, state: CourseState, phase: Phase, gradients: Gradients, *, step: int) -> None:
        """Keep the last gradient of a phase that only forgets, or only retains, for their cosine."""
        if step == phase.steps - 1 and len(phase.sides) == 1:
            self._seen[_forgets(phase)] = {name: g.clone() for name, g in gradients.items()}

    def _mask(self, phase: Phase) -> Mapping[str, Tensor]:
        assert self.course.saliency is not None, f"{phase.name} is masked, the course has no mask"
        return self.course.saliency


def _weighted_mean(term: Term, losses_B: Tensor) -> tuple[Tensor, float | None]:
    if term.weigh is None:
        return losses_B.mean(), None
    weights_B = term.weigh(losses_B.detach())
    return (weights_B * losses_B).mean(), effective_records(weights_B)


def _bound(gradients: Gradients, phase: Phase, *, size: float, progress: float) -> float:
    """Scale gradients, in place, into the phase's bounds; return by how much.

    The lower bound fades as the phase does: a constant one would undo the fade where every step is lifted.
    """
    least = phase.lift * phase.fade.at(progress)
    if phase.clip is not None and size > phase.clip:
        factor = phase.clip / size
    elif 0.0 < size < least:
        factor = least / size
    else:
        return 1.0
    for gradient in gradients.values():
        gradient.mul_(factor)
    return factor


def _forgets(phase: Phase) -> bool:
    return Side.FORGET in phase.sides


def _streams(course: Course, sides: Sides, *, seed: int) -> dict[Side, Stream]:
    used = {side for phase in (*course.cycle, *course.ending) for side in phase.sides}
    return {
        side: Stream(sides[side], batch_size=course.batch_sizes[side], seed=seed_of(seed, side.value))
        for side in sorted(used)
    }


def _gradients(net: nn.Module) -> Gradients:
    """Return the gradients themselves; a parameter that the loss does not reach gets zeros."""
    for _, parameter in moving(net):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return {name: parameter.grad for name, parameter in moving(net) if parameter.grad is not None}


def _copies(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in moving(net)}


def _slow(net: nn.Module, anchor: Mapping[str, Tensor], *, rate: float) -> None:
    """theta <- anchor + rate (theta - anchor)."""
    with torch.no_grad():
        for name, parameter in moving(net):
            parameter.copy_(anchor[name] + rate * (parameter - anchor[name]))


def _is_reached(course: Course, net: nn.Module) -> bool:
    if course.stop is None:
        return False
    with _in_mode(net, Mode.EVAL), torch.no_grad():
        return course.stop.is_reached(net)


@contextmanager
def _in_mode(net: nn.Module, mode: Mode) -> Iterator[None]:
    """Put a net into a mode and give every module its own back afterwards."""
    before = {module: module.training for module in net.modules()}
    net.train(mode is not Mode.EVAL)
    if mode is Mode.FROZEN_NORM:
        for module in net.modules():
            if isinstance(module, NORM_LAYERS):
                module.eval()
    try:
        yield
    finally:
        for module, was_training in before.items():
            module.training = was_training
