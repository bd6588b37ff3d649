"""The same seed gives the same bits in two processes, whatever each has drawn before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from models_store.tensors import tensor_digest
from tests.support.gradient import small_net
from tests.support.gradient_methods import task_of, unlearned
from worker.determinism import fix_kernels
from worker.unlearners.gradient.methods import METHODS

ROOT = Path(__file__).parents[5]


def digests(*, draws: int) -> dict[str, str]:
    """Return what every method makes of one net, after so many draws of this process's own generator."""
    fix_kernels(1)
    torch.rand(draws)
    return {
        name: tensor_digest(dict(unlearned(method, task_of(small_net(), seed=5)).state_dict()))
        for name, method in METHODS.items()
    }


def test_every_method_ends_with_the_same_bits_in_a_process_of_its_own() -> None:
    code = f"import json, {__name__} as own; print(json.dumps(own.digests(draws=3)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == digests(draws=1000)
