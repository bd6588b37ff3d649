"""The gradient methods, a file each, and their registry."""

from worker.unlearners.gradient.method import Method
from worker.unlearners.gradient.methods.bad_teacher import BAD_TEACHER
from worker.unlearners.gradient.methods.boundary_expand import BOUNDARY_EXPAND
from worker.unlearners.gradient.methods.boundary_shrink import BOUNDARY_SHRINK
from worker.unlearners.gradient.methods.finetune import FINETUNE
from worker.unlearners.gradient.methods.fisher_noise import FISHER_NOISE
from worker.unlearners.gradient.methods.gradient_ascent import GRADIENT_ASCENT
from worker.unlearners.gradient.methods.influence_first import INFLUENCE_FIRST
from worker.unlearners.gradient.methods.influence_second import INFLUENCE_SECOND
from worker.unlearners.gradient.methods.l1_sparse import L1_SPARSE
from worker.unlearners.gradient.methods.lora_residual import LORA_RESIDUAL
from worker.unlearners.gradient.methods.neggrad_plus import NEGGRAD_PLUS
from worker.unlearners.gradient.methods.npo_klr import NPO_KLR
from worker.unlearners.gradient.methods.projected_gradient import PROJECTED_GRADIENT
from worker.unlearners.gradient.methods.random_label import RANDOM_LABEL
from worker.unlearners.gradient.methods.salun import SALUN
from worker.unlearners.gradient.methods.scrub import SCRUB
from worker.unlearners.gradient.methods.sfron import SFRON
from worker.unlearners.gradient.methods.ssd import SSD
from worker.unlearners.gradient.methods.stochastic_teacher import STOCHASTIC_TEACHER

_ALL = (
    SFRON,
    FINETUNE,
    L1_SPARSE,
    GRADIENT_ASCENT,
    NEGGRAD_PLUS,
    NPO_KLR,
    RANDOM_LABEL,
    SALUN,
    BOUNDARY_SHRINK,
    BOUNDARY_EXPAND,
    BAD_TEACHER,
    STOCHASTIC_TEACHER,
    SCRUB,
    SSD,
    FISHER_NOISE,
    INFLUENCE_FIRST,
    INFLUENCE_SECOND,
    PROJECTED_GRADIENT,
    LORA_RESIDUAL,
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
