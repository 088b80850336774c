"""Quality heads."""

import math

import torch

from model.mlp import MLP, LinearHead


def test_mlp_has_the_published_size_and_keys():
    head = MLP()
    assert sum(p.numel() for p in head.parameters()) == 526_337
    assert {key: tuple(value.shape) for key, value in head.state_dict().items()} == {
        "l1.weight": (1024, 512),
        "l1.bias": (1024,),
        "l2.weight": (1, 1024),
        "l2.bias": (1,),
    }


def test_mlp_uses_the_exact_gelu_and_no_sigmoid():
    head = MLP(in_dim=1, hidden_dim=1).double()
    for key, value in {"l1.weight": 2.0, "l1.bias": 0.5, "l2.weight": -3.0, "l2.bias": 0.25}.items():
        head.state_dict()[key].fill_(value)
    x = 0.7
    hidden = 2 * x + 0.5
    gelu = hidden * 0.5 * (1 + math.erf(hidden / math.sqrt(2)))
    quality = head(torch.tensor([[x]], dtype=torch.float64))
    assert quality.shape == (1, 1)
    assert abs(quality.item() - (-3 * gelu + 0.25)) < 1e-12  # the tanh form differs by 1e-4
    assert quality.item() < -1  # no sigmoid


def test_linear_head_is_one_linear():
    head = LinearHead(in_dim=3)
    assert {key: tuple(v.shape) for key, v in head.state_dict().items()} == {"weight": (1, 3), "bias": (1,)}
    head.load_state_dict({"weight": torch.tensor([[1.0, 2.0, 3.0]]), "bias": torch.tensor([0.5])})
    assert head(torch.tensor([[1.0, -1.0, 2.0]])).tolist() == [[5.5]]
