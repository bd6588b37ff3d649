"""Denoisers: nets that say which noise an image of a class was given. Factories, as a recipe would name them.

Both kinds come from ``diffusers`` and answer alike. Labels are never dropped in training, which guidance
without a classifier would need (Ho and Salimans 2022): nothing here samples without a label.

Shape suffixes: B images, C channels, H height, W width.
"""

from collections.abc import Sequence

from diffusers import DiTTransformer2DModel, UNet2DModel
from diffusers.models.embeddings import LabelEmbedding
from torch import Tensor, nn
from torch.nn import functional as F

_PLAIN, _ATTENDING = ("DownBlock2D", "UpBlock2D"), ("AttnDownBlock2D", "AttnUpBlock2D")


class Denoiser(nn.Module):
    """A net of ``diffusers`` that is asked by position and answers with a tensor.

    A net that also says how sure it is (twice the channels, as the published DiT) is read by its first half.
    The net is shown each square of ``patch_size`` by ``patch_size`` as the channels of one place.
    """

    def __init__(self, net: nn.Module, *, patch_size: int = 1) -> None:
        super().__init__()
        self.net = net
        self.patch_size = patch_size

    def forward(self, noised: Tensor, timesteps_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return the noise in images: (B, C, H, W), (B,), (B,) -> (B, C, H, W)."""
        patched = F.pixel_unshuffle(noised, self.patch_size)  # (B, C p p, H / p, W / p)
        (said,) = self.net(patched, timesteps_B, class_labels=labels_B, return_dict=False)
        return F.pixel_shuffle(said[:, : patched.shape[1]], self.patch_size)


def unet(
    num_classes: int = 10,
    *,
    image_size: int = 28,
    channels: int = 1,
    patch_size: int = 1,
    widths: Sequence[int] = (32, 64),
    attending: Sequence[int] = (),
    layers_per_block: int = 1,
    groups: int = 1,
    head_width: int | None = 16,
    dropout: float = 0.0,
) -> Denoiser:
    """Return a U-Net (Ho et al. 2020) with an embedding of the class added to that of the timestep.

    Args:
        num_classes: labels run from 0.
        image_size: height and width; ``patch_size`` divides them, and they are halved between two widths.
        channels: of an image.
        patch_size: what becomes one place of the finest level (Luhman and Luhman 2022, arXiv 2207.04316): of
            smooth images 2 loses little, and a step costs half.
        widths: channels of each level, finest first; ``groups`` divides them.
        attending: which levels attend to themselves, besides the middle.
        layers_per_block: residual blocks a level.
        groups: of the group normalisation; with few channels in one, how bright an image is gets lost.
        head_width: channels of one attention head; None makes one head of them all.
        dropout: share of features dropped in residual blocks.
    """
    kinds = [_ATTENDING if level in attending else _PLAIN for level in range(len(widths))]
    net = UNet2DModel(
        sample_size=image_size // patch_size,
        in_channels=channels * patch_size**2,
        out_channels=channels * patch_size**2,
        block_out_channels=tuple(widths),
        down_block_types=tuple(down for down, _ in kinds),
        up_block_types=tuple(up for _, up in reversed(kinds)),
        layers_per_block=layers_per_block,
        norm_num_groups=groups,
        attention_head_dim=head_width,
        dropout=dropout,
        num_class_embeds=num_classes,
    )
    return Denoiser(net, patch_size=patch_size)


def dit(
    num_classes: int = 10,
    *,
    image_size: int = 28,
    channels: int = 1,
    patch_size: int = 7,
    num_layers: int = 4,
    num_heads: int = 4,
    head_width: int = 32,
    says_variance: bool = False,
) -> Denoiser:
    """Return a diffusion transformer (Peebles and Xie 2023, arXiv 2212.09748) with adaLN-Zero blocks.

    Args:
        num_classes: labels run from 0.
        image_size: height and width; ``patch_size`` divides them.
        channels: of an image, or of an autoencoder's latents.
        patch_size: height and width of what becomes one token.
        num_layers: blocks.
        num_heads: attention heads of ``head_width`` features each.
        head_width: features of one head.
        says_variance: twice the channels out, as published; the second half is not read here.
    """
    net = DiTTransformer2DModel(
        sample_size=image_size,
        in_channels=channels,
        out_channels=2 * channels if says_variance else channels,
        patch_size=patch_size,
        num_layers=num_layers,
        num_attention_heads=num_heads,
        attention_head_dim=head_width,
        num_embeds_ada_norm=num_classes,
    )
    for module in net.modules():
        if isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0  # each block would drop labels by itself, also while forgetting
    return Denoiser(net)
