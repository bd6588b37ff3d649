"""Unlearning methods: a protocol, one method family a file, a plain dict as registry."""

from worker.unlearners.base import Prediction, Unlearned, Unlearner
from worker.unlearners.replay import Replay, Retrain
from worker.unlearners.stitch import Stitch

UNLEARNERS: dict[str, Unlearner] = {method.name: method for method in (Replay(), Retrain(), Stitch())}

__all__ = ["UNLEARNERS", "Prediction", "Unlearned", "Unlearner"]
