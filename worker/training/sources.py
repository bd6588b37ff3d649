"""The digest of a factory's source: the module it lives in and everything of the user's that it imports.

Promises: the same files give the same digest in every process, because imports are read from the sources
and followed on disk, not taken from what happens to be loaded. Installed distributions count by version.
"""

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

# Torch is part of the environment's fingerprint; our own code has a digest of its own.
_COUNTED_ELSEWHERE = frozenset({"torch", "app", "worker", "models_store"})


def source_digest(module_name: str) -> str:
    """Return the SHA-256 over the module, the user's modules it imports, and versions of the rest."""
    modules, distributions = _closure(module_name)
    digest = hashlib.sha256()
    for name, path in sorted(modules.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for name in sorted(distributions):
        digest.update(f"{name}=={_version(name)}\0".encode())
    return digest.hexdigest()


def _closure(module_name: str) -> tuple[dict[str, Path], set[str]]:
    """Return the source files by module name, and the top-level names of what is installed."""
    modules: dict[str, Path] = {}
    distributions: set[str] = set()
    waiting, own_package = [module_name], module_name.split(".")[0]
    while waiting:
        name = waiting.pop()
        top = name.split(".")[0]
        is_counted = top in _COUNTED_ELSEWHERE and name != module_name
        if name in modules or is_counted or top in sys.stdlib_module_names:
            continue
        path = _source_of(name)
        if path is None or (_is_installed(path) and top != own_package):
            distributions.add(top)
        else:
            modules[name] = path
            waiting += _imports(name, path)
    return modules, distributions


def _source_of(name: str) -> Path | None:
    """Return the file of a module; None when it has no Python source or is no module (an attribute)."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imports(name: str, path: Path) -> Iterator[str]:
    """Yield the names that a module imports; ``from a import b`` may mean the module a.b, so both."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if _is_module(f"{base}.{alias.name}"))


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = ".".join(parts[: len(parts) - node.level + 1])
    return ".".join(part for part in (base, node.module) if part)


def _is_module(name: str) -> bool:
    return name.split(".")[0] not in _COUNTED_ELSEWHERE and _source_of(name) is not None


def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib"))


def _version(top_level: str) -> str:
    for name in metadata.packages_distributions().get(top_level, [top_level]):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
