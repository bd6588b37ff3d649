"""What ``register`` finds out in a fresh process: do these weights fit the net, the records and each other?

Promises: a refusal names the tensor, the field or the file; nothing is stored. What is found is evidence of
how well the model does, and none of what it was trained on.

Shape suffixes: N records, K classes.
"""

import time
from dataclasses import asdict

import torch
from torch import nn
from torch.nn import functional as F

from app.domain.terms import JsonObject
from models_store.ensemble import Ensemble, logits_of
from models_store.errors import TensorFileRefused
from models_store.tensors import pack
from models_store.weights import read_weights
from worker.data.data_files import open_data_file
from worker.data.loader import Loader
from worker.determinism import choose_device, environment, fix_kernels
from worker.evaluation.gates import Check, evidence_of, require_gates, warnings_of
from worker.evaluation.served import compare_as_served
from worker.evaluation.utility import Sample, accuracy, sample_of, utility_check
from worker.registering import Examination, Examined
from worker.training.factory import build_net
from worker.training.inputs import transform_of
from worker.training.recipe import RecipeRefused
from worker.training.state import weights, weights_digest
from worker.trial import require_fitting_net

PROBE_RECORDS = 256
WARM_UP, TIMED = 2, 5


def examine(asked: Examination) -> Examined:
    """Return the weights as they will be served, with the evidence of version 1.

    Raises:
        TensorFileRefused: the file is no safetensors file, or a tensor does not fit the net.
        RecipeRefused: the net does not take the records, has too few scores, or answers with NaN.
    """
    recipe = asked.recipe
    fix_kernels(recipe.execution.threads)
    device = choose_device()
    require_fitting_net(recipe, asked.layout)
    net, fresh = (build_net(recipe, shard=0, device=device) for _ in range(2))
    try:
        net.load_state_dict(read_weights(asked.weights, expected=net.state_dict()))
    except TensorFileRefused as error:
        raise TensorFileRefused(f"{asked.weights}: {error}") from error
    data = pack(weights(net), note={"format": "expunge/weights@1"})
    loader = _loader(asked, device=device)
    samples = {
        "held_out": sample_of(loader, asked.table.held_out()),
        "training": sample_of(loader, asked.table.training()),
    }
    for name, sample in samples.items():
        _require_finite_answers(net, sample, name=name.replace("_", "-"))
    checks = _checks(asked, net, fresh, data=data, samples=samples)
    require_gates(checks)
    found = environment(device)
    utility = next(check for check in checks if check.name == "utility")
    return Examined(
        weights=data,
        weights_digest=weights_digest([weights(net)]),
        evidence=evidence_of(checks),
        warnings=list(warnings_of(checks)),
        accuracy=utility.figures["after"],  # type: ignore[arg-type]  # a table of shares
        environment=dict(asdict(found)),
        environment_digest=found.digest(),
        record_seconds=_seconds_of_a_record(fresh, samples["training"], batch_size=recipe.batch_size),
    )


def _loader(asked: Examination, *, device: torch.device) -> Loader:
    return Loader(
        open_data_file(asked.data_folder, asked.dataset_id, layout=asked.layout),
        asked.table,
        transform=transform_of(asked.recipe, shape=asked.layout.shape),
        device=device,
        resident_bytes=0,
    )


def _checks(
    asked: Examination, net: nn.Module, fresh: nn.Module, *, data: bytes, samples: dict[str, Sample]
) -> list[Check]:
    version = Ensemble([net])
    held_out, training = samples["held_out"], samples["training"]
    problem = compare_as_served(net, fresh, data=data, probe=_first(training, num=PROBE_RECORDS))
    served = Check(
        name="as_served",
        holds=not problem,
        is_gate=True,
        power="certain for bytes, names, shapes or types that differ from what was handed in, and for NaN",
        problem=problem,
    )
    utility = utility_check(version, None, held_out=held_out, retained=training, max_drop=asked.max_drop)
    return [_origin(asked), served, utility, _fit(version, held_out if len(held_out) else training)]


def _first(sample: Sample, *, num: int) -> Sample:
    return Sample(inputs=sample.inputs[:num], labels=sample.labels[:num])


def _origin(asked: Examination) -> Check:
    """Say where the weights are from, as far as anybody here can know."""
    figures: JsonObject = {"trained": "elsewhere", "dataset": asked.recipe.data.dataset}
    power = "none: that these weights were trained on this dataset is what whoever registered them says"
    return Check(name="origin", holds=True, is_gate=False, power=power, figures=figures)


def _fit(version: Ensemble, sample: Sample) -> Check:
    """Flag weights that do no better than one answer for all: mostly the inputs are not those of training."""
    share = accuracy(version, sample) or 0.0
    most_frequent = float(sample.labels.bincount().max()) / len(sample) if len(sample) else 0.0
    holds = share > most_frequent
    problem = (
        f"accuracy {share:.4f} is no better than giving everybody the most frequent label "
        f"({most_frequent:.4f}): do data.scale, data.mean, data.std and the order of the labels fit?"
    )
    return Check(
        name="fit",
        holds=holds,
        is_gate=False,
        power="finds inputs or labels that are not those of the training, where they cost all accuracy",
        figures={"accuracy": share, "most_frequent_label": round(most_frequent, 6)},
        problem="" if holds else problem,
    )


def _require_finite_answers(net: nn.Module, sample: Sample, *, name: str) -> None:
    if not len(sample):
        return
    logits_NK = logits_of(net, sample.inputs)
    num_bad = int((~torch.isfinite(logits_NK).all(dim=1)).sum())
    if num_bad:
        raise RecipeRefused(
            f"model.factory: with these weights it answers {num_bad} of {len(sample)} {name} records with "
            "NaN or infinity"
        )


def _seconds_of_a_record(net: nn.Module, sample: Sample, *, batch_size: int) -> float:
    """Return what one forward and backward pass of a record takes, in batches of ``batch_size``.

    The net is not used afterwards: BatchNorm takes the batches in.
    """
    batch = _first(sample, num=batch_size)
    if not len(batch):
        return 0.0
    net.eval()  # a single record would have no variance
    started = 0.0
    for step in range(WARM_UP + TIMED):
        started = time.perf_counter() if step == WARM_UP else started
        F.cross_entropy(net(batch.inputs), batch.labels).backward()
    return (time.perf_counter() - started) / TIMED / len(batch)
