"""The rules by which masks evolve, and the gates that they know."""

import pytest
import torch
from rnncore.errors import UserError
from selfish.gate_layout import GateLayout, gate_layouts
from selfish.mask_update import DEATHS, GROWTHS, REDISTRIBUTIONS, Rules
from selfish.masking import Masking
from torch import nn


def test_weights_grow_where_the_gradients_of_all_steps_point() -> None:
    layer = nn.Linear(6, 5, bias=False)
    masking = Masking(layer, density=0.5, decay_steps=10**6, rules=Rules(growth="momentum"), death_rate=0.2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-9)
    source = torch.Generator().manual_seed(1)
    total = torch.zeros(5, 6)
    for _ in range(4):
        layer.weight.grad = torch.randn(5, 6, generator=source)
        total = 0.9 * total + layer.weight.grad
        optimizer.step()
        masking.after_step(optimizer)
    before = masking.masks["weight"].bool()
    left = before & (layer.weight.detach().abs() > layer.weight.detach()[before].abs().sort().values[2])
    masking.evolve(optimizer)
    expected = total.abs()[~left].sort(descending=True).values[:3]
    assert int(left.sum()) == 12
    new = masking.masks["weight"].bool() & ~left
    assert torch.equal(total[new].abs().sort(descending=True).values, expected)


@pytest.mark.parametrize(
    ("flag", "known"), [("death", DEATHS), ("growth", GROWTHS), ("redistribution", REDISTRIBUTIONS)]
)
def test_an_unknown_rule_lists_those_that_exist(flag: str, known: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=f"--{flag} prune is unknown; choose from {', '.join(known)}"):
        Rules(**{flag: "prune"})


def test_gates_of_torch_layers_and_of_others() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight_ih = nn.Parameter(torch.zeros(5, 2))
            self.weight_hh = nn.ParameterList([torch.zeros(5, 3)])

        def gate_rows(self) -> dict[str, slice]:
            return {"small": slice(0, 2), "large": slice(2, 5)}

    odd = gate_layouts(nn.Sequential(Odd()))
    assert odd.keys() == {"0.weight_ih", "0.weight_hh.0"}
    assert odd["0.weight_ih"] == GateLayout("0", {"small": slice(0, 2), "large": slice(2, 5)})
    both = gate_layouts(nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2))
    assert both["weight_ih_l1_reverse"] == GateLayout(
        "_l1_reverse", {g: slice(4 * k, 4 * k + 4) for k, g in enumerate("ifgo")}
    )
    assert "weight_hr_l0" not in both
    assert list(gate_layouts(nn.GRUCell(3, 4))["weight_ih"].rows) == ["r", "z", "n"]
    assert gate_layouts(nn.RNN(3, 4)) == {}
