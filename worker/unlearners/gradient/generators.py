"""SFR-on on a generator: its own loss and its own rule in the place of a classifier's.

Ascending on the noise-prediction error of a class, and descending on the others', is forgetting the class.
Huang et al. 2024 (arXiv 2409.19732) does so with a DDPM and a DiT; ``worker.generation.presets`` has what is
published of their settings.
"""

from dataclasses import replace

from torch import Tensor

from app.domain.methods import SfronSettings
from worker.unlearners.gradient.method import Prepared, Task
from worker.unlearners.gradient.methods.sfron import course, saliency
from worker.unlearners.gradient.noise_prediction import NoisePrediction
from worker.unlearners.gradient.records import Side, seed_of
from worker.unlearners.gradient.silent_labels import label_says_nothing


def prepare(task: Task, settings: SfronSettings, *, kept_T: Tensor) -> Prepared:
    """Return the course of a denoiser that was trained with noise ``kept_T``.

    The mask is measured on draws that are functions of the task's seed, one a record: a resumed course gets
    the same one.

    Raises:
        MethodDoesNotFit: the settings ask for the stop rule, and it does not fit these records.
    """
    loss = NoisePrediction(kept_T)
    stop = label_says_nothing(task.sides, loss, seed=task.seed) if settings.stops else None
    of_forget, of_retain = (
        replace(loss, seed=seed_of(task.seed, "saliency", side.value)) for side in (Side.FORGET, Side.RETAIN)
    )
    mask = saliency(task, settings, of_forget=of_forget, of_retain=of_retain)
    return Prepared(net=task.net, work=course(settings, loss=loss, mask=mask, stop=stop))
