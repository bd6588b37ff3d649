"""Which weights a forgetting step may move.

Never: a cache. A mask belongs to these records and these weights; kept under a name, the second person would
get the first person's.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.unlearners.gradient.course import Mask

TINY = 1e-12


def fisher_ratio(forget: Mapping[str, Tensor], retain: Mapping[str, Tensor], *, gamma: float) -> Mask:
    """Return [(F_f + tiny) / (F_r + tiny) >= gamma] (SFR-on, arXiv 2409.19732, equation 14)."""
    return {name: (forget[name] + TINY) >= gamma * (retain[name] + TINY) for name in forget}


def fisher_shares(forget: Mapping[str, Tensor], retain: Mapping[str, Tensor], *, gamma: float) -> Mask:
    """Return [F_f / sum F_f >= gamma F_r / sum F_r], where how much either side has in all says nothing."""
    of_forget, of_retain = _total(forget), _total(retain)
    return {name: forget[name] * of_retain >= gamma * retain[name] * of_forget for name in forget}


def carried(mask: Mask, squares: Mapping[str, Tensor]) -> float:
    """Return the share of the squares that lies on weights that may move; 1 where there are none."""
    total = float(_total(squares))
    return float(_total({name: squares[name] * mask[name] for name in squares})) / total if total else 1.0


def _total(squares: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([each.double().sum() for each in squares.values()]).sum()


def largest(scores: Mapping[str, Tensor], *, share: float) -> Mask:
    """Return the ``share`` of all weights with the largest scores; of equal ones, the first in their order.

    A threshold would let in everything where it is 0: of a net that fits its data fully, most gradients are.
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    num = max(1, round(share * flat.numel()))
    is_chosen = torch.zeros_like(flat, dtype=torch.bool)
    is_chosen[flat.argsort(descending=True, stable=True)[:num]] = True
    parts = is_chosen.split([score.numel() for score in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
