"""The gradient methods, a file each, and their registry."""

from worker.unlearners.gradient.method import Method
from worker.unlearners.gradient.methods.fisher_noise import FISHER_NOISE
from worker.unlearners.gradient.methods.influence_first import INFLUENCE_FIRST
from worker.unlearners.gradient.methods.influence_second import INFLUENCE_SECOND
from worker.unlearners.gradient.methods.lora_residual import LORA_RESIDUAL
from worker.unlearners.gradient.methods.projected_gradient import PROJECTED_GRADIENT
from worker.unlearners.gradient.methods.sfron import SFRON
from worker.unlearners.gradient.methods.ssd import SSD

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        SFRON,
        SSD,
        FISHER_NOISE,
        INFLUENCE_FIRST,
        INFLUENCE_SECOND,
        PROJECTED_GRADIENT,
        LORA_RESIDUAL,
    )
}
