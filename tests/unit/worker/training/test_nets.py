"""The residual nets: their size, their stages, their shortcuts, and which norm couples records."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worker.training.nets import ResidualBlock, lenet5, mlp, resnet18, small_resnet

NARROW: dict[str, Any] = {"num_classes": 4, "in_channels": 1}


def size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def images(num: int = 6, *, side: int = 8, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(num, channels, side, side, generator=torch.Generator().manual_seed(seed))


def size_by_hand(widths: list[int], *, blocks: int, classes: int) -> int:
    """Weights of the convolutions, two numbers a channel for each norm, and the classifier."""
    total, width = 3 * widths[0] * 9 + 2 * widths[0], widths[0]
    for next_width in widths:
        for _ in range(blocks):
            total += 9 * width * next_width + 9 * next_width**2 + 4 * next_width
            total += width * next_width + 2 * next_width if width != next_width else 0
            width = next_width
    return total + width * classes + classes


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_resnet18_has_the_parameters_of_the_paper_at_the_widths_of_cifar(norm: str) -> None:
    assert size(resnet18(norm=norm)) == 11_173_962 == size_by_hand([64, 128, 256, 512], blocks=2, classes=10)


@pytest.mark.parametrize(("depth", "count"), [(8, 78_042), (14, 175_258), (20, 272_474)])
def test_the_small_resnet_has_six_layers_more_a_step_of_depth(depth: int, count: int) -> None:
    assert size(small_resnet(depth=depth)) == count
    assert count == size_by_hand([16, 32, 64], blocks=(depth - 2) // 6, classes=10)
    convolutions = [m for m in small_resnet(depth=depth).modules() if isinstance(m, nn.Conv2d)]
    # Two shortcuts change their shape; the last of the layers is the classifier.
    assert len(convolutions) - 2 + 1 == depth


def test_the_first_stage_sees_every_pixel_and_each_later_one_half_of_each_side() -> None:
    net, shapes = resnet18(), []
    for stage in net.stages:
        stage.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    assert net(images(2, side=32, channels=3)).shape == (2, 10)
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_block_whose_branch_says_nothing_passes_its_input_on(norm: str) -> None:
    block = ResidualBlock(16, 16, stride=1, norm=norm)
    nn.init.zeros_(block.branch[-1].weight)
    features = images(3, channels=16)
    assert torch.equal(block(features), features.relu())


@pytest.mark.parametrize(("norm", "is_alone"), [("group", True), ("batch", False)])
def test_only_group_norm_leaves_a_record_alone_in_its_batch(norm: str, is_alone: bool) -> None:
    net, batch = small_resnet(**NARROW, norm=norm).train(), images()
    others = torch.cat([batch[:1], images(5, seed=1)])
    assert torch.equal(net(batch)[0], net(others)[0]) is is_alone


def test_one_seed_gives_one_initialisation_and_relu_keeps_its_scale() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(resnet18().stages[3][0].branch[3].weight.detach())
    assert torch.equal(*drawn)
    assert float(drawn[0].std()) == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(("arguments", "fault"), [
    ({"depth": 9}, "depth is 9, it must be 8, 14, 20"),
    ({"depth": 2}, "depth is 2"),
    ({"norm": "layer"}, "norm is 'layer', it must be 'batch' or 'group'"),
])  # fmt: skip
def test_other_depths_and_norms_are_refused(arguments: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        small_resnet(**arguments)


def test_the_nets_of_earlier_recipes_are_what_they_were() -> None:
    assert size(lenet5()) == 61_706
    assert size(mlp(64, 10, hidden=[16])) == 65 * 16 + 17 * 10
