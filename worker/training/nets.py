"""The nets that come with the project. Any other ``module:callable`` of installed code serves as well.

Shape suffixes: N records, C channels, H height, W width, F features, K classes.
"""

from torch import Tensor, nn


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


def _stage(
    in_channels: int, out_channels: int, *, kernel: int, padding: int, batch_norm: bool
) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(out_channels)] if batch_norm else []
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=padding)
    return [convolution, *norm, nn.ReLU(), nn.MaxPool2d(2)]


def _side_after(image_size: int, *, kernel: int, padding: int) -> int:
    first = (image_size + 2 * padding - kernel + 1) // 2
    return (first - kernel + 1) // 2
