"""Margin heads against angles computed by hand."""

import math

import pytest
import torch

from model.margins import ArcFaceHead, CosFaceHead

UNIT = [(math.cos(a), math.sin(a)) for a in (0.3, 1.5, -2.0)]  # class directions at these angles


def head_with(cls, **params):
    head = cls(in_dim=2, num_classes=3, **params)
    head.weight.data = torch.tensor(UNIT) * torch.tensor([[0.1], [5.0], [2.0]])  # lengths must not matter
    return head


def embedding(angle: float, length: float = 7.0) -> torch.Tensor:
    return torch.tensor([[length * math.cos(angle), length * math.sin(angle)]])


def test_cosface_subtracts_from_the_label_only():
    logits = head_with(CosFaceHead, scale=64.0, margin=0.4)(embedding(0.9), torch.tensor([1]))
    expected = [64 * math.cos(0.6), 64 * (math.cos(0.6) - 0.4), 64 * math.cos(2.9)]
    torch.testing.assert_close(logits[0], torch.tensor(expected), rtol=1e-5, atol=1e-4)


def test_arcface_adds_to_the_angle_of_the_label_only():
    logits = head_with(ArcFaceHead, scale=64.0, margin=0.5)(embedding(0.9), torch.tensor([0]))
    expected = [64 * math.cos(0.6 + 0.5), 64 * math.cos(0.6), 64 * math.cos(2.9)]
    torch.testing.assert_close(logits[0], torch.tensor(expected), rtol=1e-5, atol=1e-4)


def test_arcface_label_logit_falls_with_the_angle_over_the_whole_circle():
    head = ArcFaceHead(in_dim=2, num_classes=2, scale=1.0, margin=0.5)
    cosine = torch.cos(torch.linspace(0.01, math.pi - 0.01, 2000)).double()
    assert (head.harden(cosine).diff() < 0).all()
    near = cosine > math.cos(math.pi - 0.5)
    expected = torch.cos(torch.acos(cosine[near]) + 0.5)
    torch.testing.assert_close(head.harden(cosine)[near], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("angle", [0.3, 0.3 + math.pi])  # the label's cosine is exactly +1 and -1
@pytest.mark.parametrize("cls", [ArcFaceHead, CosFaceHead])
def test_gradients_are_finite_where_the_angle_is_0_or_pi(cls, angle):
    head = head_with(cls)
    f = embedding(angle).requires_grad_(True)
    torch.nn.functional.cross_entropy(head(f, torch.tensor([0])), torch.tensor([0])).backward()
    assert torch.isfinite(f.grad).all() and torch.isfinite(head.weight.grad).all()


def test_gradient_agrees_with_finite_differences():
    torch.manual_seed(0)
    for cls in (ArcFaceHead, CosFaceHead):
        head = cls(in_dim=4, num_classes=5).double()
        label = torch.tensor([1, 4])
        f = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

        def logits(f, head=head, label=label):
            normal = torch.nn.functional.normalize
            return head.logits(torch.nn.functional.linear(normal(f), normal(head.weight)), label)

        assert torch.autograd.gradcheck(logits, (f,))


def test_cosines_stay_in_float32_under_autocast():
    head = head_with(CosFaceHead)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(embedding(0.9), torch.tensor([1]))
    assert logits.dtype == torch.float32
    assert abs(logits[0, 0].item() - 64 * math.cos(0.6)) < 1e-4  # bf16 cosines have 3 digits


def test_labels_of_a_batch_are_each_rows_own():
    head = head_with(CosFaceHead, scale=1.0, margin=0.4)
    f = torch.cat([embedding(0.3), embedding(1.5)])
    plain, hard = head.cosines(f), head(f, torch.tensor([0, 2]))
    assert ((plain - hard).abs() > 1e-3).nonzero().tolist() == [[0, 0], [1, 2]]
