"""The nets that come with the project. Any other ``module:callable`` of installed code serves as well.

Shape suffixes: N records, C channels, H height, W width, F features, K classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn

# Group normalisation (Wu and He 2018) needs widths that this divides.
_GROUPS = 8


def mlp(
    in_features: int,
    num_classes: int,
    *,
    hidden: list[int] | tuple[int, ...] = (64,),
    batch_norm: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """Return a multilayer perceptron over flattened inputs: (N, *) -> (N, K)."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = in_features
    for next_width in hidden:
        layers.append(nn.Linear(width, next_width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(next_width))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = next_width
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al. 1998, figure 2) with ReLU and max pooling: (N, C, H, W) -> (N, K).

    Inputs of 28 x 28 are padded to 32 x 32 as in the paper; smaller ones (8 x 8) take 3 x 3 kernels.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        in_channels: int = 1,
        image_size: int = 28,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        kernel, padding = (5, 2) if image_size >= 20 else (3, 1)
        side = _side_after(image_size, kernel=kernel, padding=padding)
        self.features = nn.Sequential(
            *_stage(in_channels, 6, kernel=kernel, padding=padding, batch_norm=batch_norm),
            *_stage(6, 16, kernel=kernel, padding=0, batch_norm=batch_norm),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * side * side, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(84, num_classes),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the class logits (N, K)."""
        logits_NK: Tensor = self.classifier(self.features(images_NCHW))
        return logits_NK


def lenet5(**arguments: bool | int | float) -> nn.Module:
    """Return a ``LeNet5``; the arguments are its own."""
    return LeNet5(**arguments)  # type: ignore[arg-type] # the class checks them


class ResNet(nn.Module):
    """A residual net for small images (He et al. 2016, sections 3 and 4.2): (N, C, H, W) -> (N, K).

    The stem is a 3 x 3 convolution without pooling. A stage of each width follows, with ``num_blocks``
    blocks; from the second on it halves height and width. Where the shape changes, the shortcut is a
    1 x 1 convolution (option B of the paper).
    """

    def __init__(
        self, widths: Sequence[int], *, num_blocks: int, num_classes: int, in_channels: int, norm: str
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(in_channels, widths[0]), _norm(norm, widths[0]), nn.ReLU())
        stages: list[nn.Module] = []
        width = widths[0]
        for next_width in widths:
            blocks: list[nn.Module] = []
            for index in range(num_blocks):
                stride = 2 if stages and index == 0 else 1
                blocks.append(ResidualBlock(width, next_width, stride=stride, norm=norm))
                width = next_width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(width, num_classes)
        _initialise(self)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the class logits (N, K)."""
        features_NCHW: Tensor = self.stages(self.stem(images_NCHW))
        # Not an adaptive pooling layer: its backward pass has no deterministic kernel on CUDA.
        logits_NK: Tensor = self.classifier(features_NCHW.mean(dim=(2, 3)))
        return logits_NK


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: (N, C, H, W) -> (N, C', H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _convolution(in_channels, out_channels, stride=stride),
            _norm(norm, out_channels),
            nn.ReLU(),
            _convolution(out_channels, out_channels),
            _norm(norm, out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = _convolution(in_channels, out_channels, kernel=1, stride=stride)
            self.shortcut = nn.Sequential(projection, _norm(norm, out_channels))

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Return relu(branch + shortcut)."""
        sum_NCHW: Tensor = self.branch(features_NCHW) + self.shortcut(features_NCHW)
        return sum_NCHW.relu()


def resnet18(num_classes: int = 10, *, in_channels: int = 3, norm: str = "batch") -> nn.Module:
    """Return ResNet-18 for images of about 32 x 32; 11.17 million parameters for 10 classes.

    ``norm`` is ``batch`` (couples the records of a batch: the recipe needs ``min_present = 2``) or ``group``.
    """
    return ResNet(
        (64, 128, 256, 512), num_blocks=2, num_classes=num_classes, in_channels=in_channels, norm=norm
    )


def small_resnet(
    num_classes: int = 10, *, in_channels: int = 3, depth: int = 8, norm: str = "batch"
) -> nn.Module:
    """Return the narrow ResNet of He et al. for CIFAR (section 4.2): widths 16, 32 and 64.

    ``depth`` is 6 n + 2: 8 has 78 thousand parameters, 20 has 272 thousand. ``norm`` as for ``resnet18``.

    Raises:
        ValueError: there is no such depth or norm.
    """
    num_blocks, rest = divmod(depth - 2, 6)
    if rest or num_blocks < 1:
        raise ValueError(f"depth is {depth}, it must be 8, 14, 20, ... (6 n + 2)")
    return ResNet(
        (16, 32, 64), num_blocks=num_blocks, num_classes=num_classes, in_channels=in_channels, norm=norm
    )


def _convolution(in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Module:
    """A convolution that keeps the size at stride 1; the norm after it makes a bias idle."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=(kernel - 1) // 2, bias=False)


def _norm(norm: str, width: int) -> nn.Module:
    match norm:
        case "batch":
            return nn.BatchNorm2d(width)
        case "group":
            return nn.GroupNorm(_GROUPS, width)
        case _:
            raise ValueError(f"norm is {norm!r}, it must be 'batch' or 'group'")


def _initialise(net: nn.Module) -> None:
    """Draw the convolutions as He et al. 2015 (equation 10) do for ReLU."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _stage(
    in_channels: int, out_channels: int, *, kernel: int, padding: int, batch_norm: bool
) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(out_channels)] if batch_norm else []
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=padding)
    return [convolution, *norm, nn.ReLU(), nn.MaxPool2d(2)]


def _side_after(image_size: int, *, kernel: int, padding: int) -> int:
    first = (image_size + 2 * padding - kernel + 1) // 2
    return (first - kernel + 1) // 2
