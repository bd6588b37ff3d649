"""Which weights of a net a course or a statistic is about: those that may have a gradient."""

from collections.abc import Iterator

from torch import nn


def moving(net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield names and parameters, in the net's own order."""
    return ((name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad)
