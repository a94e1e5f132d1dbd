"""The loss with a teacher: by definition, in parts, in chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models_for_tests import build
from shallower.models.llama import LlamaLM
from shallower.training.loss import Teacher, losses, soft_loss
from training_runs import ids


def gradients(model: LlamaLM, teacher: Teacher | None, chunk: int = 0) -> Tensor:
    """All gradients of what is minimised, in a row."""
    model.zero_grad()
    losses(model, *ids(3, 16), "float32", chunk, teacher)[0].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_alpha_one_is_cross_entropy() -> None:
    student, teacher = build("proposed", seed=1), Teacher(build(depth=3), 1.0, 3.0)
    total, hard = losses(student, *ids(), teacher=teacher)
    plain, same = losses(student, *ids())
    assert total.item() == hard.item() == plain.item() == same.item()
    assert torch.equal(gradients(student, teacher), gradients(student, None))


def test_a_teacher_equal_to_the_student_has_no_gradient() -> None:
    model, other = build("proposed"), build("proposed", seed=1)
    for temperature in (1.0, 2.0, 4.0):
        equal = gradients(model, Teacher(build("proposed"), 0.0, temperature))
        assert equal.norm() < 1e-12 * gradients(model, Teacher(other, 0.0, 1.0)).norm()


def test_the_temperature_hardly_changes_the_gradients_size() -> None:
    student, teacher = build(seed=1), build(depth=3)
    sizes = [gradients(student, Teacher(teacher, 0.0, t)).norm() for t in (1, 2, 3, 4)]
    assert max(sizes) < 2 * min(sizes)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_soft_loss_is_a_divergence_and_a_constant(temperature: float) -> None:
    """torch's own Kullback-Leibler divergence, and the entropy of the teacher."""
    draw = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(2, 6, 11, generator=draw, dtype=torch.float64)
    logs = (ours / temperature).log_softmax(-1)
    shares = (theirs / temperature).softmax(-1)
    divergence = F.kl_div(logs, shares, reduction="none").sum(-1)
    entropy = torch.special.entr(shares).sum(-1)
    expected = temperature**2 * (divergence + entropy)
    assert torch.allclose(soft_loss(ours, theirs, temperature), expected, rtol=1e-12)


def test_both_parts_are_weighted() -> None:
    student, teacher = build(seed=1), build(depth=3)
    parts = {
        alpha: losses(student, *ids(), teacher=Teacher(teacher, alpha, 2.0))
        for alpha in (0.0, 0.25, 1.0)
    }
    mixed = 0.75 * parts[0.0][0] + 0.25 * parts[1.0][0]
    assert parts[0.25][0].item() == pytest.approx(mixed.item(), rel=1e-12)
    # The second is the cross-entropy, whatever is minimised.
    assert parts[0.25][1].item() == parts[1.0][0].item()


@pytest.mark.parametrize("chunk", [1, 10, 47])
def test_with_a_teacher_in_chunks(chunk: int) -> None:
    student, teacher = build(seed=1), Teacher(build(depth=3), 0.3, 2.0)
    full, cut = (
        losses(student, *ids(3, 16), "float32", c, teacher) for c in (0, chunk)
    )
    assert [x.item() for x in cut] == pytest.approx([x.item() for x in full], 1e-6)
    difference = gradients(student, teacher, chunk) - gradients(student, teacher)
    assert difference.norm() < 1e-6 * gradients(student, teacher).norm()
