"""The digest of a factory's source: it changes with every file of the user's that the factory is made of."""

import importlib
import secrets
from pathlib import Path

import pytest

from worker.training.sources import source_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of its own name, whose factory comes from another module that imports two more."""
    monkeypatch.syspath_prepend(tmp_path)
    root = tmp_path / f"nets_{secrets.token_hex(4)}"
    root.mkdir()
    (root / "__init__.py").write_text(f"from {root.name}.layers import net\n")
    (root / "layers.py").write_text(
        f"from torch import nn\nfrom . import sizes\nimport {root.name}_beside\n\nnet = nn.ReLU\n"
    )
    (root / "sizes.py").write_text("WIDTH = 3\n")
    (root / "unused.py").write_text("x = 1\n")
    (tmp_path / f"{root.name}_beside.py").write_text("y = 1\n")
    importlib.invalidate_caches()
    return root


@pytest.mark.parametrize("name", ["__init__.py", "layers.py", "sizes.py", "beside"])
def test_every_imported_file_counts(package: Path, name: str) -> None:
    before = source_digest(package.name)
    path = package.parent / f"{package.name}_beside.py" if name == "beside" else package / name
    path.write_text(path.read_text() + "z = 2\n")
    assert source_digest(package.name) != before


def test_a_file_that_is_not_imported_does_not_count(package: Path) -> None:
    before = source_digest(package.name)
    (package / "unused.py").write_text("x = 2\n")
    assert source_digest(package.name) == before


def test_our_own_nets_count_by_their_module_alone() -> None:
    assert source_digest("worker.training.nets") == source_digest("worker.training.nets")
    assert source_digest("worker.training.nets") != source_digest("worker.training.plan")
