"""Everything that shapes bits besides the recipe: kernels, seeds, and the fingerprint of the environment.

Promises: with equal fingerprint, recipe and plan key, equal steps give equal bits.
Never: trusts the process to be in any particular state; ``fix_kernels`` sets all of it.
"""

import functools
import hashlib
import os
import platform
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from models_store.manifest import digest_json

_SHAPES_BITS = (
    "worker/determinism.py",
    "worker/data/loader.py",
    "worker/training/factory.py",
    "worker/training/loop.py",
    "worker/training/optimizers.py",
    "worker/training/plan.py",
    "worker/training/precision.py",
    "worker/training/recipe.py",
    "worker/training/state.py",
)


@dataclass(frozen=True)
class Environment:
    """What a machine adds to the bits; threads and dtype are the recipe's."""

    torch: str
    cuda: str
    cudnn: str
    driver: str
    device: str
    cpu: str
    isa: str
    libc: str
    code_digest: str

    def digest(self) -> str:
        """Return the fingerprint that a claim compares."""
        return digest_json(asdict(self))


def environment(device: torch.device) -> Environment:
    """Return the fingerprint of this process on ``device``."""
    is_cuda = device.type == "cuda"
    return Environment(
        torch=torch.__version__,
        cuda=str(torch.version.cuda),
        cudnn=str(torch.backends.cudnn.version()) if is_cuda else "none",
        driver=_cuda_driver() if is_cuda else "none",
        device=torch.cuda.get_device_name(device) if is_cuda else "cpu",
        cpu=_cpu_model(),
        isa=_instructions(),
        libc=" ".join(platform.libc_ver()),
        code_digest=code_digest(),
    )


def choose_device() -> torch.device:
    """Return the accelerator when there is one, else the CPU; ``EXPUNGE_DEVICE`` overrides."""
    wished = os.environ.get("EXPUNGE_DEVICE")
    if wished:
        return torch.device(wished)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fix_kernels(threads: int) -> None:
    """Choose deterministic kernels and the recipe's number of threads for this process."""
    # cuBLAS reads this when CUDA starts; later it has no effect.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same switch as use_deterministic_algorithms(True), which imports the compiler (2 s) as well.
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(threads)


def seed_generators(seed: int, device: torch.device) -> None:
    """Set torch's generators for one batch: no stream is carried from batch to batch.

    ``torch.default_generator`` takes 1 us where ``torch.manual_seed`` takes 95.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Set every generator that a model factory could draw its initial weights from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@functools.cache
def code_digest() -> str:
    """Return the SHA-256 of our sources that shape bits."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for name in _SHAPES_BITS:
        digest.update(name.encode() + b"\0" + (root / name).read_bytes() + b"\0")
    return digest.hexdigest()


def _cpu_model() -> str:
    fields = _cpu_fields("vendor_id", "model name", "cpu family", "model\t")
    return " ".join(dict.fromkeys(fields)) or platform.processor() or platform.machine()


def _instructions() -> str:
    """Return torch's name of what the CPU can do and, beside it, which bfloat16 instructions there are.

    A virtual machine may hide those, and the kernels chosen then are others, while both names stay.
    """
    flags = {flag for field in _cpu_fields("flags", "Features") for flag in field.split()}
    own = sorted(flag for flag in flags if flag.endswith("bf16"))
    return " ".join([torch.backends.cpu.get_cpu_capability(), *own])


def _cpu_fields(*names: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(names)]


def _cuda_driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return "unknown"
