"""Denoisers: their shapes, the class as a condition, and squares of single records' gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.support.generators import KEPT, digits, small_dit, small_unet
from worker.generation.nets import Denoiser, dit, unet
from worker.generation.presets import PRESETS
from worker.unlearners.gradient.layers import are_layers_enough
from worker.unlearners.gradient.noise_prediction import NoisePrediction
from worker.unlearners.gradient.records import TensorRecords
from worker.unlearners.gradient.statistics import mean_squares, squares_by_records

Make = Callable[..., Denoiser]
BOTH = pytest.mark.parametrize("make", [small_unet, small_dit])


def asked(num: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    records = digits()
    return records.all_inputs[:num], torch.arange(num) * 10, records.all_targets[:num]


@BOTH
def test_a_denoiser_answers_with_the_shape_of_its_images(make: Make) -> None:
    images, timesteps, labels = asked()
    assert make()(images, timesteps, labels).shape == images.shape


@BOTH
def test_the_answer_depends_on_the_label_and_on_the_timestep_in_training_too(make: Make) -> None:
    images, timesteps, labels = asked()
    net = make().train()
    with torch.no_grad():
        answer = net(images, timesteps, labels)
        assert torch.equal(net(images, timesteps, labels), answer)  # no label is dropped by chance
        for other in (net(images, timesteps, (labels + 1) % 3), net(images, timesteps + 1, labels)):
            assert all(not torch.equal(*pair) for pair in zip(other, answer, strict=True))


@BOTH
def test_the_same_seed_gives_the_same_weights(make: Make) -> None:
    assert all(map(torch.equal, make().parameters(), make().parameters()))


def test_of_a_net_that_says_its_variance_as_well_the_noise_is_read() -> None:
    net = dit(3, image_size=8, patch_size=4, num_layers=1, num_heads=1, head_width=8, says_variance=True)
    images, timesteps, labels = asked()
    (both,) = net.net(images, timesteps, class_labels=labels, return_dict=False)
    assert both.shape == (4, 2, 8, 8)
    assert torch.equal(net(images, timesteps, labels), both[:, :1])


class Shown(nn.Module):
    """Answers with what it is shown, and keeps it."""

    def forward(self, images: Tensor, *_: Tensor, **__: object) -> tuple[Tensor]:
        """Return the images."""
        self.images = images
        return (images,)


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_a_net_is_shown_squares_as_channels_and_what_it_says_is_put_back(patch_size: int) -> None:
    shown, (images, *conditions) = Shown(), asked()
    assert torch.equal(Denoiser(shown, patch_size=patch_size)(images, *conditions), images)
    side = 8 // patch_size
    squares = images.reshape(4, side, patch_size, side, patch_size).permute(0, 2, 4, 1, 3)
    assert torch.equal(shown.images, squares.reshape(4, patch_size**2, side, side))


def test_a_unet_that_sees_squares_answers_with_images_under_its_condition() -> None:
    images, timesteps, labels = asked()
    torch.manual_seed(0)
    net = unet(3, image_size=8, patch_size=2, widths=(8, 16))
    with torch.no_grad():
        answer = net(images, timesteps, labels)
        other = net(images, timesteps, (labels + 1) % 3)
    assert answer.shape == images.shape
    assert all(not torch.equal(*pair) for pair in zip(answer, other, strict=True))


def test_levels_attend_where_they_are_told_to() -> None:
    names = [name for name, _ in unet(3, image_size=8, widths=(16, 16), attending=(1,)).named_modules()]
    assert any("down_blocks.1.attentions" in name for name in names)
    assert any("up_blocks.0.attentions" in name for name in names)
    assert not any("down_blocks.0.attentions" in name or "up_blocks.1.attentions" in name for name in names)


def test_the_layers_formulas_fit_a_unet_though_its_keys_have_biases_without_influence() -> None:
    assert are_layers_enough(small_unet().eval(), *asked(2))
    assert not are_layers_enough(small_dit().eval(), *asked(2))  # it embeds a condition twice


@BOTH
def test_squares_of_single_records_are_those_of_a_loop(make: Make) -> None:
    net, everybody = make(dtype=torch.float64).eval(), digits(dtype=torch.float64)
    records = TensorRecords(everybody.all_inputs[:5], everybody.all_targets[:5])
    loss = NoisePrediction(KEPT.double(), seed=3)
    expected = {name: torch.zeros_like(weight) for name, weight in net.named_parameters()}
    for index in torch.arange(5).split(1):
        inputs = records.inputs(index)
        value = loss(net, inputs, loss.aims(records, index, inputs)).sum()
        for name, own in zip(expected, torch.autograd.grad(value, list(net.parameters())), strict=True):
            expected[name] += own**2
    by_records = squares_by_records(
        net, loss, records.all_inputs, loss.aims(records, torch.arange(5), records.all_inputs)
    )
    whole, in_chunks = mean_squares(net, loss, records), mean_squares(net, loss, records, chunk=2)
    for name, value in expected.items():
        torch.testing.assert_close(by_records[name], value, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(whole[name], value / 5, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(in_chunks[name], value / 5, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_answers_with_the_shape_of_its_images(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):  # shapes without numbers: the published ones are large
        net, conditions = preset.net(), torch.zeros(2, dtype=torch.int64)
        assert net(torch.zeros(2, *preset.shape), conditions, conditions).shape == (2, *preset.shape)


def test_the_net_for_cifar_10_has_the_published_size_and_an_embedding_of_the_class() -> None:
    with torch.device("meta"):
        net = PRESETS["ddpm_cifar10"].net()
    num = sum(weight.numel() for weight in net.parameters())
    assert round((num - 10 * 512) / 1e6, 1) == 35.7  # Ho et al. 2020
