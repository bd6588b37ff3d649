"""Learning-rate schedules in closed form; optimizers as the recipe names them."""

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from worker.training.optimizers import build_optimizer, learning_rate
from worker.training.recipe import AdamwPart, OptimizerPart, SchedulePart, SgdPart

SGD = SgdPart(name="sgd", learning_rate=0.2)


@pytest.mark.parametrize("step", [0, 3, 99])
def test_a_constant_rate_stays(step: int) -> None:
    assert learning_rate(SGD, SchedulePart(), step=step, num_steps=100) == 0.2


@pytest.mark.parametrize(("share", "floor"), [(0.0, 0.0), (0.1, 0.02), (1.0, 0.2)])
def test_a_cosine_falls_from_the_rate_to_its_final_share(share: float, floor: float) -> None:
    schedule = SchedulePart(name="cosine", final_share=share)
    rates = [learning_rate(SGD, schedule, step=step, num_steps=1000) for step in range(1000)]
    expected = [floor + (0.2 - floor) * (1 + math.cos(math.pi * t / 1000)) / 2 for t in range(1000)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[0] == pytest.approx(0.2)
    assert rates[500] == pytest.approx((0.2 + floor) / 2)
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(("share", "floor"), [(0.0, 0.0), (0.1, 0.02), (1.0, 0.2)])
def test_a_line_falls_by_the_same_amount_each_step_to_its_final_share(share: float, floor: float) -> None:
    schedule = SchedulePart(name="linear", final_share=share)
    rates = [learning_rate(SGD, schedule, step=step, num_steps=1000) for step in range(1000)]
    assert rates == pytest.approx([0.2 - (0.2 - floor) * t / 1000 for t in range(1000)], rel=1e-12)
    assert rates[0] == pytest.approx(0.2)
    assert rates[-1] - floor == pytest.approx((0.2 - floor) / 1000)
    # What a run moves at most: half of what the constant rate would, and half a step.
    assert sum(rates) == pytest.approx(0.2 * 1000 * (1 + share) / 2 + (0.2 - floor) / 2)


def test_sgd_takes_what_the_recipe_says() -> None:
    part = SgdPart(name="sgd", learning_rate=0.3, momentum=0.9, nesterov=True, weight_decay=0.01)
    (group,) = build_optimizer(part, [nn.Parameter(torch.zeros(2))]).param_groups
    found = {key: group[key] for key in ("lr", "momentum", "nesterov", "weight_decay", "foreach", "fused")}
    assert found == {
        "lr": 0.3, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "foreach": False, "fused": False,
    }  # fmt: skip


@pytest.mark.parametrize("implementation", ["single", "foreach", "fused"])
def test_adamw_takes_the_kernels_of_the_recipe(implementation: str) -> None:
    part = AdamwPart.model_validate(
        {
            "name": "adamw",
            "learning_rate": 0.1,
            "betas": [0.8, 0.9],
            "eps": 1e-6,
            "implementation": implementation,
        }
    )
    (group,) = build_optimizer(part, [nn.Parameter(torch.zeros(2))]).param_groups
    assert (group["betas"], group["eps"], group["lr"]) == ((0.8, 0.9), 1e-6, 0.1)
    assert group["foreach"] == (implementation == "foreach")
    assert group["fused"] == (implementation == "fused")


TABLES = [
    {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.01},
]


@pytest.mark.parametrize("table", TABLES, ids=["sgd", "adamw"])
@pytest.mark.parametrize("implementation", ["single", "foreach", "fused"])
def test_every_step_is_that_of_torchs_own_optimizer_bit_for_bit(
    table: dict[str, Any], implementation: str
) -> None:
    part = TypeAdapter(OptimizerPart).validate_python({**table, "implementation": implementation})
    kernels = {"foreach": implementation == "foreach", "fused": implementation == "fused"}
    options = {key: value for key, value in table.items() if key not in ("name", "learning_rate")}
    kind: Any = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[table["name"]]
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 50)) for _ in range(2))
    own, others = build_optimizer(part, [ours]), kind([theirs], lr=0.1, **options, **kernels)
    for step in range(5):
        for optimizer, weight in ((own, ours), (others, theirs)):
            optimizer.zero_grad()
            (weight**3).sum().mul(step - 2.5).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours.detach(), torch.linspace(-1, 1, 50))
    for key, value in others.state[theirs].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(own.state[ours][key])), key


def test_a_training_in_a_process_of_its_own_never_imports_the_compiler() -> None:
    lines = [
        "import sys, torch",
        "from worker.determinism import fix_kernels",
        "from worker.training.optimizers import build_optimizer",
        "from worker.training.recipe import AdamwPart, SgdPart",
        "fix_kernels(1)",
        "for part in (SgdPart(name='sgd', learning_rate=0.1), AdamwPart(name='adamw', learning_rate=0.1)):",
        "    net = torch.nn.Linear(3, 2)",
        "    optimizer = build_optimizer(part, net.parameters())",
        "    net(torch.ones(1, 3)).sum().backward()",
        "    optimizer.step()",
        "    optimizer.zero_grad(set_to_none=True)",
        "    optimizer.load_state_dict(optimizer.state_dict())",
        "print('torch._dynamo' in sys.modules)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
