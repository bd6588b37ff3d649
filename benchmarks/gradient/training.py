"""The nets that something is forgotten from: small ones that fit their records fully, and ResNet-18."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.training.nets import lenet5, resnet18
from worker.unlearners.gradient.records import Stream, TensorRecords, seed_of

NUM_STEPS, BATCH_SIZE, LEARNING_RATE, MOMENTUM = 1_500, 64, 0.02, 0.9
# The usual recipe for ResNet-18 on CIFAR-10, with fewer epochs than the 182 of the paper's line of work.
CIFAR_BATCH, CIFAR_RATE, CIFAR_DECAY, CIFAR_PAD = 256, 0.1, 5e-4, 4


def trained_lenet(records: TensorRecords, seed: int) -> nn.Module:
    """Return a LeNet-5 that fits these records fully."""
    torch.manual_seed(seed)
    net = lenet5()
    stream = Stream(records, batch_size=BATCH_SIZE, seed=seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    for step in range(NUM_STEPS):
        indices = stream.indices(step)
        optimizer.zero_grad()
        F.cross_entropy(net(records.inputs(indices)), records.targets(indices)).backward()
        optimizer.step()
    return net


def trained_resnet(records: TensorRecords, seed: int, *, epochs: int) -> nn.Module:
    """Return a ResNet-18 trained with shifted and mirrored images, on the device of the records."""
    torch.manual_seed(seed)
    device = records.all_inputs.device
    net = resnet18().to(device)
    stream = Stream(records, batch_size=CIFAR_BATCH, seed=seed)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=CIFAR_RATE, momentum=MOMENTUM, weight_decay=CIFAR_DECAY, nesterov=True
    )
    num_steps = epochs * stream.num_batches
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, CIFAR_RATE, total_steps=num_steps)
    generator = torch.Generator().manual_seed(seed_of(seed, "augment"))
    for step in range(num_steps):
        indices = stream.indices(step)
        inputs = shifted(records.inputs(indices), generator=generator)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = F.cross_entropy(net(inputs), records.targets(indices))
        loss.backward()
        optimizer.step()
        rates.step()
    return net


def shifted(images_BCHW: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return images shifted by up to 4 places each way over a border of zeros, half of them mirrored."""
    num, (height, width) = len(images_BCHW), images_BCHW.shape[2:]
    down_B, right_B, turn_B = torch.randint(0, 2 * CIFAR_PAD + 1, (3, num), generator=generator)
    padded = F.pad(images_BCHW, (CIFAR_PAD,) * 4)
    rows_BH = down_B[:, None] + torch.arange(height)
    columns_BW = right_B[:, None] + torch.arange(width)
    columns_BW = torch.where(turn_B[:, None] % 2 == 0, columns_BW, columns_BW.flip(1))
    places = (torch.arange(num)[:, None, None], slice(None), rows_BH[:, :, None], columns_BW[:, None, :])
    moved_BHWC: Tensor = padded[tuple(p.to(padded.device) if isinstance(p, Tensor) else p for p in places)]
    return moved_BHWC.permute(0, 3, 1, 2).contiguous()
