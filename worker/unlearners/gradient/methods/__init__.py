"""The gradient methods, a file each, and their registry."""

from worker.unlearners.gradient.method import Method
from worker.unlearners.gradient.methods.sfron import SFRON

METHODS: dict[str, Method] = {method.name: method for method in (SFRON,)}
