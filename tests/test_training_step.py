"""One training step: its loss, its update, what it saves, what is measured of it."""

from __future__ import annotations

import copy
import math
import time
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from conftest import run_spec
from models_for_tests import ORIGINAL, build, tiny
from shallower import machine
from shallower.errors import UserError
from shallower.machine import has_compiler
from shallower.models.initial import initialise
from shallower.models.llama import LlamaLM
from shallower.study.schema import Training
from shallower.training import loss as losses_module
from shallower.training.activations import SEQUENCES, ActivationStatistics, rms
from shallower.training.batches import Prefetch
from shallower.training.loss import is_compiled, losses
from shallower.training.meter import Meter, State, speeds
from shallower.training.peaks import peak_flops
from shallower.training.step import (
    RelativeAdamW,
    learning_rate,
    make_optimizer,
    training_step,
)
from training_runs import changed, ids, run, same_weights

CPU = torch.device("cpu")
SETTINGS = Training(steps=60, batch_size=4, learning_rate=3e-3)


def settings(**changes: object) -> Training:
    return SETTINGS.model_copy(update=changes)


def steps_taken(model: LlamaLM, how: Training, count: int) -> list[float]:
    """Losses of steps on the same batch."""
    optimizer = make_optimizer(model, how)
    return [training_step(model, optimizer, *ids(), how).item() for _ in range(count)]


# --- the update -----------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 4])
def test_a_step_is_adamw_of_the_clipped_gradient(parts: int) -> None:
    """Written out by hand, in one part and with accumulated gradients."""
    how, model = settings(clip=0.5, accumulation=parts), build("proposed")
    plain = copy.deepcopy(model)
    inputs, targets = ids()
    [loss] = steps_taken(model, how, 1)
    expected = F.cross_entropy(plain(inputs).reshape(-1, 300), targets.reshape(-1))
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    norm = sum(p.grad.square().sum() for p in plain.parameters()).sqrt()
    assert norm > 0.5
    with torch.no_grad():
        for name, p in plain.named_parameters():
            gradient = p.grad * (0.5 / (norm + 1e-6))
            # Gains and biases do not decay.
            decay = 0.0 if p.ndim == 1 or name.endswith("bias") else 0.1
            # The first step: both moments are bias-corrected to g and g^2.
            update = gradient / (gradient.abs() + 1e-8)
            updated = p * (1 - 3e-3 * decay) - 3e-3 * update
            assert torch.allclose(model.get_parameter(name), updated, atol=1e-7), name


@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_relative_rates_are_adafactors(size: float) -> None:
    """The first step of both is the gradient's sign x rate x RMS, at least .001."""
    import transformers

    start, gradient = size * torch.tensor([3.0, -1.0, 2.0]), torch.tensor([5.0, -2, 1])
    found, expected = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    for optimizer, parameter in (
        (RelativeAdamW([found], lr=0.02, weight_decay=0), found),
        (transformers.Adafactor([expected], lr=0.02, relative_step=False), expected),
    ):
        parameter.grad = gradient.clone()
        optimizer.step()
    scale = max(1e-3, size * math.sqrt(14 / 3))
    due = -0.02 * scale * gradient.sign()
    near = {"rtol": 1e-3, "atol": 0.0}  # a step is a millionth where values are small
    torch.testing.assert_close(expected.detach() - start, due, **near)
    torch.testing.assert_close(found.detach() - start, due, **near)


def test_relative_rates_leave_the_rate_of_the_schedule() -> None:
    model, how = build("proposed"), settings(scale_by_rms=True)
    optimizer = make_optimizer(model, how)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    training_step(model, optimizer, *ids(), how)
    for name, p in model.named_parameters():
        rms = before[name].square().mean().sqrt()
        decay = 0.0 if p.ndim == 1 or name.endswith("bias") else 0.1
        # Adam's first step is as long as the rate, and decay is by the same one.
        step = (p - before[name] * (1 - 3e-3 * rms * decay)).abs().max()
        due = 3e-3 * max(1e-3, rms.item())
        assert step.item() == pytest.approx(due, rel=0.01), name
    assert {group["lr"] for group in optimizer.param_groups} == {3e-3}
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {0.0, 0.1}


@pytest.mark.parametrize("head", ["baseline", "proposed"])
def test_bfloat16_autocast_trains(head: str) -> None:
    model = initialise(LlamaLM(tiny(head)), 0)
    found = steps_taken(model, settings(precision="bfloat16"), 20)
    assert found[-1] < found[0] - 0.5
    assert model.head.weight.dtype == torch.float32


def test_schedules() -> None:
    cosine, root, constant = (
        [learning_rate(s, 100, 2.0, 0.1, 0.1, name) for s in range(100)]
        for name in ("cosine", "inverse_sqrt", "constant")
    )
    for rates in (cosine, root, constant):
        assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert cosine[-1] == pytest.approx(0.2)
    # Half way down the cosine: the mean of the peak and the last.
    assert cosine[10 + 44] == pytest.approx((2.0 + 0.2) / 2)
    assert all(a > b for a, b in pairwise(cosine[10:]))
    # At four times the warm-up's steps the rate is half the peak.
    assert root[39] == pytest.approx(1.0)
    assert set(constant[10:]) == {2.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "depth", "tokens", "precision"),
    # A CPU without bfloat16 units takes a minute for more tokens.
    [("proposed", 8, 64, "float32"), ("baseline", 5, 8, "bfloat16")],
)
def test_a_step_of_the_original(
    head: str, depth: int, tokens: int, precision: str
) -> None:
    how = settings(batch_size=1, precision=precision, loss_chunk=tokens // 2)
    model = initialise(LlamaLM(tiny(head, depth=depth, **ORIGINAL)), 0).train()
    draw = torch.Generator().manual_seed(0)
    window = torch.randint(32_000, (1, tokens + 1), generator=draw)
    weight = model.blocks[0].get_parameter("attention.output.weight")
    before = weight.clone()
    optimizer = make_optimizer(model, how)
    loss = training_step(model, optimizer, window[:, :-1], window[:, 1:], how)
    # Untrained, all pieces are about as likely; the mean of eight tokens varies by .2.
    assert loss.item() == pytest.approx(math.log(32_000), abs=0.6)
    # Adam's first step moves every weight by the rate, whatever its gradient.
    assert (weight - before).abs().max().item() == pytest.approx(3e-3, rel=0.3)


# --- the loss, in chunks and with recomputed blocks -----------------------------------


class Saved(saved_tensors_hooks):
    """Shapes and bytes of the tensors that are saved for the backward pass."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []
        self.bytes = 0
        super().__init__(self._note, lambda tensor: tensor)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tensor.shape)
        self.bytes += tensor.nbytes
        return tensor

    def __enter__(self) -> Saved:
        super().__enter__()
        return self


class LargestLogits(torch.utils._python_dispatch.TorchDispatchMode):
    """The most rows that any tensor as wide as the vocabulary has, at any moment."""

    rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (300,):
                self.rows = max(self.rows, tensor.numel() // 300)
        return result


@pytest.mark.parametrize("chunk", [0, 30, 64, 128, 1000])  # of 128 tokens
def test_the_loss_in_chunks_is_cross_entropy(chunk: int) -> None:
    """By its definition, in fp64, with its gradients."""
    model = build("proposed")
    inputs, targets = ids()
    chosen = -model(inputs).log_softmax(-1).gather(2, targets[..., None]).mean()
    gradients = torch.autograd.grad(chosen, list(model.parameters()))
    loss, plain = losses(model, inputs, targets, chunk=chunk)
    assert loss.item() == plain.item() == pytest.approx(chosen.item(), rel=1e-12)
    loss.backward()
    for (name, p), expected in zip(model.named_parameters(), gradients, strict=True):
        assert torch.allclose(p.grad, expected, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_more_than_one_chunk_has_logits(precision: str) -> None:
    """In all operations of both passes."""
    model = initialise(LlamaLM(tiny("proposed")), 0)
    rows, values = {}, {}
    for chunk in (0, 50):
        with LargestLogits() as largest, Saved() as saved:
            loss = losses(model, *ids(), precision, chunk)[0]
            loss.backward()
        # A transposed weight is as wide, and has 32 rows.
        rows[chunk], values[chunk] = largest.rows, loss.item()
        assert (torch.Size((128, 300)) in saved.shapes) == (chunk == 0)
    assert rows == {0: 128, 50: 50}
    assert values[50] == pytest.approx(values[0], abs=1e-5)
    assert loss.dtype == torch.float32
    exact = losses(model.double(), *ids())[0].item()
    assert values[0] == pytest.approx(exact, abs=0.02)


def test_recomputed_blocks_give_the_same_gradients_from_less_memory() -> None:
    model, found = build("proposed", depth=4), {}
    for recompute in (False, True):
        model.recompute = recompute
        model.zero_grad()
        with Saved() as saved:
            loss = losses(model, *ids())[0]
            forward = saved.bytes  # not what a block saves in its second forward pass
            loss.backward()
        found[recompute] = [loss, *(p.grad.clone() for p in model.parameters())]
        found[recompute, "bytes"] = forward
    for once, twice in zip(found[False], found[True], strict=True):
        assert torch.equal(once, twice)
    assert found[True, "bytes"] < 0.25 * found[False, "bytes"]


# --- compilation ----------------------------------------------------------------------


def test_when_a_step_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_compiler", lambda: True)
    gpu = torch.device("cuda")
    found = {
        wish: [is_compiled(settings(compile=wish), device) for device in (CPU, gpu)]
        for wish in ("never", "gpu", "always")
    }
    assert found == {
        "never": [False, False],
        "gpu": [False, True],
        "always": [True, True],
    }
    monkeypatch.setattr(machine, "has_compiler", lambda: False)
    assert not is_compiled(settings(compile="always"), CPU)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
def test_compiled_steps_have_the_same_losses() -> None:
    """With the real compiler; one block, since C++ takes its time."""
    torch.compiler.reset()
    eager, compiled = (
        steps_taken(
            initialise(LlamaLM(tiny("proposed", depth=1)), 0), settings(compile=wish), 5
        )
        for wish in ("never", "always")
    )
    assert compiled == pytest.approx(eager, abs=1e-5)
    assert eager[-1] < eager[0] - 0.1


@pytest.mark.slow
def test_a_run_with_every_switch_is_one_graph_and_has_the_same_losses(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch traces it, forward and backward, without C++; measured steps too."""
    traced = torch.compile(losses, fullgraph=True, dynamic=False, backend="aot_eager")
    monkeypatch.setattr(losses_module, "compiled_loss", lambda: traced)
    curves = {}
    for wish in ("never", "always"):
        spec = changed(
            run_spec("proposed", steps=12, checkpoint_every=5),
            compile=wish,
            log_every=1,
            diagnose_every=5,
            loss_chunk=50 if wish == "always" else 0,
            checkpoint_activations=wish == "always",
        )
        facts = run(spec, corpus / "train", tmp_path / wish)
        assert facts["compiled"] == (wish == "always")
        curves[wish] = pd.read_csv(tmp_path / wish / "losses.csv")["loss"].tolist()
        measured = pd.read_csv(tmp_path / wish / "diagnostics.csv")
        assert set(measured["iteration"]) == {1, 6, 11}
    assert curves["always"] == pytest.approx(curves["never"], abs=1e-4)


# --- activation statistics ------------------------------------------------------------


@pytest.mark.parametrize("recompute", [False, True])
def test_statistics_by_hand(recompute: bool) -> None:
    """Of the first block: attention and gradients written out, in fp64."""
    model = build("proposed").train()
    plain, (inputs, targets) = copy.deepcopy(model), ids(tokens=16)
    how = settings(checkpoint_activations=recompute)
    with ActivationStatistics(model) as statistics:
        optimizer = make_optimizer(model, how)
        training_step(model, optimizer, inputs, targets, how, statistics)
    found = {(block, what): value for _, block, what, value in statistics.rows(1)}
    assert {block for block, _ in found} == {0, 1}

    block, x = plain.blocks[0], plain.embedding(inputs)
    normed = block.attention_norm(x)
    q, k, v = block.attention.project(normed, plain.rotary[:, :16])
    scores = q @ k.transpose(2, 3) / math.sqrt(8)
    hidden = torch.ones(16, 16).triu(1).bool()
    rows = scores.masked_fill(hidden, -math.inf).softmax(-1)
    branch = block.attention.join(rows @ v, normed)
    few = rows[:SEQUENCES]
    F.cross_entropy(plain(inputs).flatten(0, 1), targets.flatten()).backward()
    old = [p for p in block.parameters() if p.ndim > 1]
    new = [p for p in model.blocks[0].parameters() if p.ndim > 1]
    moved = sum((a - b).square().sum() for a, b in zip(new, old, strict=True))
    expected = {
        "output_rms": (rows @ v).square().mean().sqrt(),
        "stream_rms": x.square().mean().sqrt(),
        "branch_rms": branch.square().mean().sqrt(),
        "branch_ratio": branch.square().mean().sqrt() / x.square().mean().sqrt(),
        "entropy": -(few * few.clamp_min(1e-300).log()).sum(-1).mean(),
        "gradient_norm": sum(p.grad.square().sum() for p in block.parameters()).sqrt(),
        "update_ratio": (moved / sum(p.square().sum() for p in old)).sqrt(),
    }
    values = {what: value.item() for what, value in expected.items()}
    assert {what: found[0, what] for what in values} == pytest.approx(values, rel=1e-5)
    assert {what for _, what in found} == set(values)


def test_rms() -> None:
    assert rms(torch.tensor([3.0, 4.0])).item() == pytest.approx(math.sqrt(12.5))


def test_statistics_change_nothing(corpus: Path, tmp_path: Path) -> None:
    for every, measured in ((2, 6), (1000, 1)):
        spec = run_spec("proposed", steps=12, checkpoint_every=5)
        folder = tmp_path / str(every)
        run(changed(spec, diagnose_every=every), corpus / "train", folder)
        table = pd.read_csv(folder / "diagnostics.csv")
        assert len(table["iteration"].unique()) == measured
    assert same_weights(tmp_path / "2", tmp_path / "1000")


# --- reading ahead, and speed ---------------------------------------------------------


def test_prefetch_keeps_the_order_and_reads_one_ahead() -> None:
    asked: list[int] = []

    def read(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(step)
        return torch.tensor(step), torch.tensor(-step)

    with Prefetch(read, 3, 7, CPU) as ahead:
        for step in range(3, 7):
            assert [int(t) for t in ahead.next()] == [step, -step]
            assert len(asked) <= step - 3 + 2
    assert asked == [3, 4, 5, 6]


def test_an_error_while_reading_is_raised_in_training() -> None:
    def read(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise UserError("disk gone")

    with Prefetch(read, 0, 5, CPU) as ahead, pytest.raises(UserError, match="disk"):
        ahead.next()


def test_speed_leaves_out_start_up_and_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by hand: 100 s to compile, then 1 s a step, 50 s for a checkpoint."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    ahead = Prefetch(lambda step: ids(), 0, 0, CPU)
    state = State()
    meter = Meter(state, ahead)
    for _ in range(3):
        now += 100 if state.step == 0 else 4
        ahead.waited += 1
        state.step += 4
        if state.step == 8:
            meter.stop()
            now += 50
            meter.start()
        meter.read()
    assert state.seconds == 108
    assert (state.steady_steps, state.steady_seconds) == (8, 8)
    assert speeds(state, 1000, 6, 24_000) == {
        "tokens_per_second": 1000,
        "data_wait_share": 2 / 8,
        "mfu": 0.25,
    }
    assert speeds(state, 1000, 6, None)["mfu"] is None
    # A run that ends before its start-up has no steady part.
    short = speeds(State(step=2, seconds=4, waited=1), 1000, 6, None)
    assert (short["tokens_per_second"], short["data_wait_share"]) == (500, 0.25)


@pytest.mark.parametrize(
    ("device", "precision", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100 80GB PCIe", "float32", 19.5),
        ("A100-SXM4-40GB", "tf32", 156),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5),
        ("NVIDIA H200", "bfloat16", 989.5),
        ("Tesla V100-SXM2-16GB", "float32", 15.7),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),  # has no bfloat16 units
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None),
        ("NVIDIA A10G", "bfloat16", None),  # another chip than A10
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16", None),  # a seventh of one
        ("AMD EPYC 9R14", "float32", None),
    ],
)
def test_peaks_are_those_of_the_data_sheets(
    device: str, precision: str, tera: float | None
) -> None:
    assert peak_flops(device, precision) == (tera and tera * 1e12)
