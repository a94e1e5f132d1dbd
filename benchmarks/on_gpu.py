"""`python -m benchmarks.on_gpu --output FOLDER`: what a GPU says in 15 minutes.

The most important first, and every figure is written when it is there, so that a card
that is taken away loses nothing:

1. decoding at the original's size: eager, a CUDA graph, and a CUDA graph of kernels
   that the compiler fused, as it does by default and with autotuning; as a share of the
   rate at which one large product reads;
2. training at the original's size in bfloat16: the share of the card's peak, by batch,
   compiled by default and with autotuning;
3. the project's tests that need a GPU.

`--small` runs the same on models that a CPU can, to try the script.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from shallower import machine
from shallower.evaluation.latency.decode_modes import Prepare
from shallower.models import decoding
from shallower.models.config import LlamaConfig
from shallower.models.costs import training_flops, weights_read
from shallower.models.initial import initialise
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.models.registry import HEADS
from shallower.models.transforms import deploy
from shallower.study.schema import Training
from shallower.training.peaks import peak_flops
from shallower.training.step import make_optimizer, training_step

ORIGINAL = LlamaConfig(32_000, 1024, 8, 8, 2752, 512)
SMALL = LlamaConfig(512, 64, 2, 4, 172, 64)
PROMPT, TOKENS, REPEATS = 32, 32, 10
LARGE = 256 * 2**20  # bytes of the matrix by which the bandwidth is measured
WINDOWS = (16, 32, 64, 128)  # of a step
COLUMNS = ("part", "model", "way", "dtype", "value", "unit", "device", "torch")


class Notes:
    """A CSV file that every figure is appended to at once."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / "on_gpu.csv").open("w", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(COLUMNS)
        self.made = machine.device_name(device), torch.__version__

    def add(self, *cells: object) -> None:
        """A row, on the disk and on the terminal."""
        self.rows.writerow([*cells, *self.made])
        self.file.flush()
        print(*cells, flush=True)


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """Median of REPEATS calls, each until the device has done it."""
    times = []
    for _ in range(REPEATS):
        wait(device)
        before = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - before)
    return 1000 * sorted(times)[len(times) // 2]


def wait(device: torch.device) -> None:
    """Until the device has nothing to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


# --- decoding -------------------------------------------------------------------------


def steps(device: torch.device) -> Iterator[tuple[str, Prepare]]:
    """Ways to make a step; graphs are of a GPU."""
    yield "eager", decoding.eager
    if device.type == "cuda":
        yield "graph", decoding.graphed
    for mode in ("default", "max-autotune-no-cudagraphs"):
        yield (
            f"compiled, {mode}",
            partial(fused, mode=mode, graph=device.type == "cuda"),
        )


def fused(
    model: LlamaLM, cache: decoding.StaticCache, mode: str, graph: bool
) -> decoding.Step:
    """The step in kernels of the compiler, as a CUDA graph on a GPU."""
    step = torch.compile(decoding.eager(model, cache), fullgraph=True, mode=mode)
    return decoding.graphed(model, cache, step) if graph else step


@torch.inference_mode()
def decode(notes: Notes, config: LlamaConfig, device: torch.device) -> None:
    """GB/s of the weights that a token reads, by way, and of one large product."""
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        square = int((LARGE / dtype.itemsize) ** 0.5) // (
            1 if device.type == "cuda" else 8
        )
        matrix = torch.randn(square, square, device=device, dtype=dtype)
        row = torch.randn(square, device=device, dtype=dtype)
        read = (
            matrix.nbytes / milliseconds(partial(torch.mv, matrix, row), device) / 1e6
        )
        notes.add("decode", "", "one product", name, round(read, 1), "GB/s")
        for variant, depth in (
            ("baseline", config.depth),
            ("proposed", config.depth // 2),
        ):
            chosen = replace(config, depth=depth, head=HEADS[variant])
            model = deploy(initialise(LlamaLM(chosen), 0)).eval().to(device, dtype)
            weights = weights_read(model) * dtype.itemsize
            for way, prepare in steps(device):
                torch.compiler.reset()
                taken = token_milliseconds(model, prepare, device)
                label = f"{variant}-{depth}, folded"
                notes.add(
                    "decode", label, way, name, round(1000 * taken, 1), "us/token"
                )
                speed = weights / taken / 1e6
                notes.add("decode", label, way, name, round(speed / read, 3), "share")


def token_milliseconds(model: LlamaLM, prepare: Prepare, device: torch.device) -> float:
    """Milliseconds of a token, in the median of some answers."""
    filled = KeyValueCache(model, 1, PROMPT + TOKENS)
    prompt = torch.ones(1, PROMPT, dtype=torch.long, device=device)
    logits = model(prompt, filled, last_only=True)
    cache = decoding.StaticCache.of(filled)
    step, positions = prepare(model, cache), cache.index.split(1)

    def answer() -> None:
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        for position in positions[PROMPT:]:
            tokens = step(tokens, position)[:, -1].argmax(-1, keepdim=True)

    answer()
    return milliseconds(answer, device) / TOKENS


# --- training -------------------------------------------------------------------------


def train(notes: Notes, config: LlamaConfig, device: torch.device) -> None:
    """Share of the card's peak in bfloat16, by windows of a step."""
    peak = peak_flops(machine.device_name(device), "bfloat16")
    flops = training_flops(config)
    for mode in ("default", "max-autotune-no-cudagraphs"):
        for windows in WINDOWS:
            torch.compiler.reset()
            tokens = windows * config.context
            try:
                taken = step_milliseconds(config, windows, mode, device)
            except torch.cuda.OutOfMemoryError:
                notes.add("train", f"{windows} windows", mode, "bfloat16", "", "memory")
                continue
            speed = 1000 * tokens / taken
            label = f"baseline-{config.depth}, {windows} windows"
            notes.add("train", label, mode, "bfloat16", round(speed), "tokens/s")
            if peak:
                share = flops * speed / peak
                notes.add("train", label, mode, "bfloat16", round(share, 4), "MFU")


def step_milliseconds(
    config: LlamaConfig, windows: int, mode: str, device: torch.device
) -> float:
    """Milliseconds of a compiled training step, in the median of some."""
    settings = Training(
        steps=2, batch_size=windows, learning_rate=1e-4, precision="bfloat16"
    )
    torch.set_float32_matmul_precision("high")
    model = initialise(LlamaLM(config), 0).to(device).train()
    optimizer = make_optimizer(model, settings)
    shape = (windows, config.context + 1)
    ids = torch.randint(config.vocabulary, shape, device=device)

    def forward(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(inputs)
        return torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten()
        )

    compiled = torch.compile(forward, mode=mode, dynamic=False)

    class Compiled(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor, hooked: bool) -> object:
            loss = compiled(x, y)
            return loss, loss

    step = partial(
        training_step,
        model,
        optimizer,
        ids[:, :-1],
        ids[:, 1:],
        settings,
        loss_module=Compiled(),
    )
    for _ in range(3):
        step()
    return milliseconds(step, device)


def main() -> None:
    """All parts, in the order of their importance, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    device = machine.choose_device("cpu" if asked.small else "cuda")
    config = SMALL if asked.small else ORIGINAL
    notes, began = Notes(asked.output, device), time.monotonic()
    for part in (decode, train):
        if time.monotonic() - began < 60 * asked.minutes:
            part(notes, config, device)
    if not asked.small and time.monotonic() - began < 60 * asked.minutes:
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"]
        with (asked.output / "tests.txt").open("w") as file:
            subprocess.run(tests, stdout=file, stderr=subprocess.STDOUT, check=False)


if __name__ == "__main__":
    main()
