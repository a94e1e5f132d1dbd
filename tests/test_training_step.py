"""A training step for large models: less memory, more speed, the same gradients."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from conftest import build, run_spec, tiny
from shallower.evaluation.latency.decode_modes import has_compiler
from shallower.files import read_json
from shallower.models.initial import initialise
from shallower.models.llama import LlamaLM
from shallower.training import loss as losses_module
from shallower.training.diagnostics import Watch
from shallower.training.loop import train
from shallower.training.loss import is_compiled, losses, next_token_loss
from shallower.training.meter import Meter, State, speeds
from shallower.training.peaks import peak_flops
from shallower.training.prefetch import Prefetch
from shallower.training.step import make_optimizer, training_step

needs_compiler = pytest.mark.skipif(
    not has_compiler(), reason="no C++ compiler: torch.compile needs one"
)
CPU = torch.device("cpu")


def batch(rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(300, (rows, 33), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1], ids[:, 1:]


def gradients(model: LlamaLM, chunk: int) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = next_token_loss(model, *batch(), chunk=chunk)
    loss.backward()
    grads = {k: p.grad.clone() for k, p in model.named_parameters()}
    return loss.item(), grads


class Saved:
    """Sizes of all tensors that are kept for the backward pass."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []
        self.bytes = 0
        self._hooks = saved_tensors_hooks(self._note, lambda tensor: tensor)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tensor.shape)
        self.bytes += tensor.nbytes
        return tensor

    def __enter__(self) -> Saved:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


# --- the loss in chunks -------------------------------------------------------------


@pytest.mark.parametrize("chunk", [30, 64, 128, 1000])  # of 128 tokens
def test_chunked_loss_equals_the_plain_one(chunk: int) -> None:
    """Against cross-entropy by its definition, in fp64."""
    model = build("proposed")
    inputs, targets = batch()
    chosen = model(inputs).log_softmax(-1).gather(2, targets[..., None])
    due = torch.autograd.grad(-chosen.mean(), list(model.parameters()))
    loss, found = gradients(model, chunk)
    assert loss == pytest.approx(-chosen.mean().item(), rel=1e-12)
    for (name, gradient), expected in zip(found.items(), due, strict=True):
        assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12), name


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The most rows that any tensor as wide as the vocabulary has, at any moment."""

    rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (300,):
                self.rows = max(self.rows, tensor.numel() // 300)
        return result


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_more_than_one_chunk_has_logits(precision: str) -> None:
    """Every operation of both passes is looked at, gradients included."""
    model = initialise(LlamaLM(tiny("proposed")), 0)
    seen = {}
    for chunk in (0, 50):
        with Largest() as largest, Saved() as saved:
            next_token_loss(model, *batch(), precision, chunk).backward()
        # A transposed weight is as wide, and has 32 rows.
        seen[chunk] = largest.rows
        assert (torch.Size((128, 300)) in saved.shapes) == (chunk == 0)
    assert seen == {0: 128, 50: 50}


# --- recomputed blocks --------------------------------------------------------------


def test_recomputed_blocks_give_the_same_gradients_from_less_memory() -> None:
    model, kept = build("proposed", depth=4), {}
    for recompute in (False, True):
        model.recompute = recompute
        with Saved() as saved:
            kept[recompute] = (*gradients(model, 0), saved.bytes)
    assert kept[True][0] == kept[False][0]
    for name, gradient in kept[False][1].items():
        assert torch.equal(kept[True][1][name], gradient), name
    # In the forward pass a block keeps its input alone; what it keeps in its second
    # forward pass lives until its backward pass, and is counted here as well.
    with Saved() as forward:
        next_token_loss(model, *batch())
    assert forward.bytes < 0.25 * kept[False][2]


def test_recomputed_blocks_can_be_watched(spec: dict) -> None:
    seen = []
    for recompute in (False, True):
        model = initialise(LlamaLM(tiny("proposed")), 0)
        settings = spec["training"] | {"checkpoint_activations": recompute}
        optimizer = make_optimizer(model, settings)
        with Watch(model) as watch:
            training_step(model, optimizer, *batch(), settings, watch)
        seen.append({tuple(row[1:3]): row[3] for row in watch.rows(1)})
    assert seen[0] == seen[1]


# --- compilation --------------------------------------------------------------------


def test_when_a_step_is_compiled() -> None:
    gpu = torch.device("cuda")
    assert not is_compiled({}, gpu)
    assert [is_compiled({"compile": "gpu"}, d) for d in (CPU, gpu)] == [False, True]
    assert is_compiled({"compile": "always"}, CPU)
    assert not is_compiled({"compile": "never"}, gpu)


@needs_compiler
def test_compiled_steps_have_the_same_losses(spec: dict) -> None:
    """With the compiler that is used; one block, since C++ takes its time."""
    torch.compiler.reset()
    curves = []
    for wish in ("never", "always"):
        model = initialise(LlamaLM(tiny("proposed", depth=1)), 0)
        settings = spec["training"] | {"compile": wish}
        optimizer = make_optimizer(model, settings)
        steps = [training_step(model, optimizer, *batch(), settings) for _ in range(5)]
        curves.append([loss.item() for loss in steps])
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[0][-1] < curves[0][0] - 0.1


def test_a_run_with_every_switch_is_one_graph_and_has_the_same_losses(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch traces it, forward and backward, without C++; watched steps as well."""
    traced = torch.compile(losses, fullgraph=True, dynamic=False, backend="aot_eager")
    monkeypatch.setattr(losses_module, "compiled_loss", lambda: traced)
    curves = {}
    for wish in ("never", "always"):
        spec = run_spec("proposed", steps=12, checkpoint_every=5)
        spec["training"] |= {"compile": wish, "log_every": 1, "diagnose_every": 5}
        if wish == "always":
            spec["training"] |= {"loss_chunk": 50, "checkpoint_activations": True}
        run = tmp_path / wish
        train(spec, corpus / "train", run, tmp_path / f"kept-{wish}")
        assert read_json(run / "training.json")["compiled"] == (wish == "always")
        curves[wish] = pd.read_csv(run / "losses.csv")["loss"].tolist()
        watched = pd.read_csv(run / "diagnostics.csv")
        assert set(watched["iteration"]) == {1, 6, 11}
    assert curves["always"] == pytest.approx(curves["never"], abs=1e-4)


# --- prefetching --------------------------------------------------------------------


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


def test_waiting_for_data_is_measured() -> None:
    """Reading takes 30 ms: while a step computes for longer, nothing is waited for."""

    def read(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.03)
        return torch.zeros(1), torch.zeros(1)

    waits = []
    for computing in (0.0, 0.1):
        with Prefetch(read, 0, 5, CPU) as ahead:
            ahead.next()
            first = ahead.waited
            for _ in range(4):
                time.sleep(computing)
                ahead.next()
            waits.append(ahead.waited - first)
    assert waits[0] > 0.1
    assert waits[1] < 0.05


def test_an_error_while_reading_is_raised_in_training() -> None:
    def read(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise OSError("disk gone")

    with Prefetch(read, 0, 5, CPU) as ahead, pytest.raises(OSError, match="disk gone"):
        ahead.next()


# --- speed --------------------------------------------------------------------------


def test_speed_leaves_out_start_up_and_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by hand: 100 s to compile, then 1 s a step, 50 s for a checkpoint."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    ahead = Prefetch(lambda step: batch(), 0, 0, CPU)
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
    short = speeds(State(step=2, seconds=4, waited=1), 1000, 6, None)
    assert short["tokens_per_second"] == 500
    assert short["data_wait_share"] == 0.25


@pytest.mark.parametrize(
    ("device", "precision", "tera"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100 80GB PCIe", "float32", 19.5),
        ("A100-SXM4-40GB", "tf32", 156),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5),
        ("NVIDIA H100 PCIe", "bfloat16", 756.5),
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


def test_facts_of_a_run(corpus: Path, spec: dict, tmp_path: Path) -> None:
    train(spec, corpus / "train", tmp_path / "run", tmp_path / "checkpoints")
    facts = read_json(tmp_path / "run" / "training.json")
    assert facts["mfu"] is None
    assert (facts["precision"], facts["compiled"]) == ("float32", False)
    assert 0 <= facts["data_wait_share"] < 1
    assert facts["saving_seconds"] > 0  # every third step was saved
    # Start-up can only have slowed the whole down.
    assert facts["tokens_per_second"] > 0.5 * facts["tokens"] / facts["seconds"]


def test_masters_stay_in_fp32_under_autocast() -> None:
    model = initialise(LlamaLM(tiny("proposed")), 0)
    plain = next_token_loss(model, *batch(), "bfloat16", 0)
    chunked = next_token_loss(model, *batch(), "bfloat16", 50)
    assert plain.dtype == chunked.dtype == torch.float32
    assert chunked.item() == pytest.approx(plain.item(), abs=1e-5)
    states = model.features(batch()[0])
    exact = F.cross_entropy(model.head(states).flatten(0, 1), batch()[1].flatten())
    assert plain.item() == pytest.approx(exact.item(), abs=0.02)
