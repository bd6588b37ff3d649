"""Unlearning methods: a protocol, one method family a file, a plain dict as registry."""

from worker.unlearners.base import Prediction, Unlearned, Unlearner
from worker.unlearners.gradient.methods import METHODS
from worker.unlearners.gradient.unlearner import Gradient
from worker.unlearners.replay import Replay, Retrain
from worker.unlearners.stitch import Stitch

_OWN: tuple[Unlearner, ...] = (Replay(), Retrain(), Stitch())
UNLEARNERS: dict[str, Unlearner] = {
    method.name: method for method in (*_OWN, *map(Gradient, METHODS.values()))
}

__all__ = ["UNLEARNERS", "Prediction", "Unlearned", "Unlearner"]
