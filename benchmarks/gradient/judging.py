"""What a net is judged by after it forgot: accuracies, who is called a member, how far training again is.

``member`` is the share, in percent, of the forget set that a threshold attack calls *member*: those whose
loss is at most the threshold that tells the retained (members) from the test records (non-members) best, by
the sum of both rates. Training again without them says how many it calls so by mistake: fewer than that are
a trace as well. SalUn's paper reports the opposite direction, the share called non-member.

Shape suffixes: N records, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gradient.scenarios import Scenario

CHUNK_RECORDS = 2_048
GAP_OVER = ("forget", "retain", "test", "member")


def shares(net: nn.Module, scenario: Scenario) -> dict[str, float]:
    """Return accuracy in percent on everything that is judged, and ``member``."""
    found, losses = {}, {}
    for name, (inputs, labels) in scenario.judged.items():
        logits_NK = _logits(net, inputs)
        found[name] = 100 * float((logits_NK.argmax(1) == labels).double().mean())
        losses[name] = F.cross_entropy(logits_NK, labels, reduction="none")
    found["member"] = 100 * member_share(losses["forget"], members=losses["retain"], others=losses["test"])
    return found


def member_share(losses_N: Tensor, *, members: Tensor, others: Tensor) -> float:
    """Return the share of these losses that the attack calls member; the losses are all in nats."""
    thresholds = torch.cat([members, others]).unique()
    hits, mistakes = (
        torch.searchsorted(own.sort().values, thresholds, right=True) / len(own) for own in (members, others)
    )
    threshold = thresholds[(hits - mistakes).argmax()]
    return float((losses_N <= threshold).double().mean())


def mean_gap(own: dict[str, float], again: dict[str, float]) -> float:
    """Return the mean distance from training again over forget, retain, test and member, in points."""
    return sum(abs(own[name] - again[name]) for name in GAP_OVER) / len(GAP_OVER)


def divergence(net: nn.Module, other: nn.Module, scenario: Scenario) -> float:
    """Return the mean KL(other || net) in nats on the test records."""
    inputs, _ = scenario.judged["test"]
    own, theirs = (_logits(each, inputs).log_softmax(-1) for each in (net, other))
    return float(F.kl_div(own, theirs, reduction="batchmean", log_target=True))


def _logits(net: nn.Module, inputs: Tensor) -> Tensor:
    """Return the answers (N, K), widened: in float32 the losses of fitted records would all be 0."""
    net.eval()
    with torch.no_grad():
        return torch.cat([net(part) for part in inputs.split(CHUNK_RECORDS)]).double()
