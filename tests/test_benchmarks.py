"""The benchmarks' harness and table; what they measure is run by `make bench`."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from benchmarks import (
    __main__,
    checkpoint,
    decode,
    first_token,
    generation,
    goals,
    harness,
    llama_cpp,
    models,
    table,
    training,
    watch,
)

from shallower.models.config import LlamaConfig
from shallower.models.costs import count_flops
from shallower.models.initial import initialise
from shallower.models.llama import LlamaLM
from shallower.pretrained.checkpoint import open_model
from shallower.reporting.numbers import study


def test_implementations_take_turns_and_every_repeat_is_kept() -> None:
    calls: list[str] = []

    def call(name: str, value: float) -> harness.Implementation:
        return lambda: calls.append(name) or value

    both = {"a": call("a", 1), "b": call("b", 2)}
    rows = harness.alternate("w", "c", both, 8, "s", 1)
    assert sorted(calls[:2]) == ["a", "b"]  # the warm-up
    turns = [tuple(calls[i : i + 2]) for i in range(2, 18, 2)]
    assert set(turns) == {("a", "b"), ("b", "a")}
    assert len(rows) == 16
    assert {(r["implementation"], r["value"]) for r in rows} == {("a", 1), ("b", 2)}


@pytest.mark.parametrize(
    ("up", "expected"), [(True, "2 (1.5 to 3)"), (False, "0.5 (0.333 to 0.667)")]
)
def test_a_ratio_is_of_one_repeat(up: bool, expected: str) -> None:
    """Of 2/1, 3/2 and 6/2 the median is 2; of the medians it would be 1.5."""
    rows = [
        {"case": "c", "implementation": name, "repeat": i, "value": value, "unit": "s"}
        for name, values in (("ours", (2, 3, 6)), ("theirs", (1, 2, 2)))
        for i, value in enumerate(values)
    ]
    goal = goals.Goal("w", "c", ("ours",), ("theirs",), 1.9, up)
    shown = table.line(goal, pd.DataFrame(rows))
    assert expected in shown
    assert ("yes" in shown) == up


def test_a_figure_is_held_against_its_bound() -> None:
    row = {"case": "c", "implementation": "a", "repeat": 0, "value": 4.0, "unit": "s"}
    for bound, reached in ((3, "**no**"), (5, "yes")):
        goal = goals.Goal("w", "c", ("a",), (), bound, False)
        assert table.line(goal, pd.DataFrame([row])).endswith(f"| {reached} |")


@pytest.mark.parametrize(
    ("up", "ours", "theirs"), [(True, "b", "d"), (False, "a", "c")]
)
def test_the_fastest_of_each_side_is_compared(up: bool, ours: str, theirs: str) -> None:
    rows = [
        {"case": "c", "implementation": name, "repeat": i, "value": value, "unit": "s"}
        for name, value in (("a", 1), ("b", 2), ("c", 3), ("d", 4))
        for i in range(2)
    ]
    goal = goals.Goal("w", "c", ("a", "b"), ("c", "d"), None, up)
    shown = table.line(goal, pd.DataFrame(rows))
    assert f"| {ours}: " in shown
    assert f"| {theirs}: " in shown
    assert shown.endswith("|  |  |")  # without a goal
    missing = pd.DataFrame(row for row in rows if row["implementation"] != "d")
    assert "| a, fastest of 2 | c, fastest of 2 | not run |" in table.line(
        goal, missing
    )


def test_shares_are_of_the_limit_in_the_same_repeat() -> None:
    rows = [
        {"case": "c", "implementation": name, "repeat": i, "value": value, "unit": "us"}
        for name, values in (("a", (4, 8)), ("floor", (1, 4)))
        for i, value in enumerate(values)
    ]
    found = harness.shares(rows, "floor")
    assert [row["value"] for row in found] == [25, 50]
    assert {row["case"] for row in found} == {"c, share of the floor"}


def test_every_goal_has_a_work_that_can_be_run() -> None:
    works = {*__main__.WORKS, *__main__.ON_REQUEST}
    assert {goal.work for goal in goals.ROWS} <= works
    for work in works:
        assert callable(importlib.import_module(f"benchmarks.{work}").run)


def test_goals_are_of_cases_that_are_measured() -> None:
    """Of works whose cases are listed; the names of prompts have their lengths."""
    cases = {(goal.work, goal.case) for goal in goals.ROWS}
    assert {case for work, case in cases if work == "training"} == set(training.CASES)
    assert {case for work, case in cases if work == "generation"} <= set(
        generation.CASES
    )
    assert {case for work, case in cases if work == "first_token"} == {
        f"{name}, {depth} blocks, {length} tokens"
        for name, _, length, _ in first_token.CASES
        for depth in first_token.DEPTHS
    }
    assert {c for w, c in cases if w == "decode" and "share" not in c} == {
        f"{name}, {depth} blocks, {precision}"
        for name, _, precisions, _, _ in decode.CASES
        for precision in precisions
        for depth in decode.DEPTHS
    }


def test_the_kept_table_is_what_the_kept_results_give() -> None:
    assert table.table() in table.README.read_text()


def test_sizes_are_the_default_studys() -> None:
    assert models.STUDY["width"] == 64
    assert models.STUDY["vocabulary"] == 2048
    assert models.ORIGINAL["width"] == 1024


def test_both_models_are_the_same_model() -> None:
    model = models.ours(2, **models.STUDY).eval()
    ids = torch.randint(2048, (2, 16), generator=torch.Generator().manual_seed(0))
    found = models.hugging_face(model)(ids).logits
    assert (found - model(ids)).abs().max() < 1e-5
    alone = first_token.last_alone(model, ids[:1])
    assert (alone - first_token.all_tokens(model, ids[:1])).abs().max() < 1e-5


def test_both_take_the_same_training_step() -> None:
    ids = torch.randint(2048, (2, 17), generator=torch.Generator().manual_seed(0))
    ours = models.ours(2, **models.STUDY)
    theirs = models.hugging_face(ours)
    training.own_step(ours, "float32", compiled=False)(ids[:, :-1], ids[:, 1:])
    training.their_step(theirs, "float32", compiled=False)(ids[:, :-1], ids[:, 1:])
    # Ours decays no gains; theirs does, by a ten-thousandth.
    after = models.hugging_face(ours).state_dict()
    for name, value in theirs.state_dict().items():
        assert (value - after[name]).abs().max() < 2e-4, name


def test_a_prefills_operations_are_counted() -> None:
    """As torch counts them, and attention's, which it does not count on a CPU."""
    model, tokens = models.ours(2, **models.STUDY), 16
    c, prompt = model.config, torch.zeros(1, tokens, dtype=torch.long)
    counted = count_flops(model, prompt, None, None, True)
    pairs = tokens * (tokens + 1) // 2 + tokens  # in the first block, in the last
    assert checkpoint.flops(model, tokens) == counted + 4 * c.width * pairs


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_llama_cpp_has_the_same_weights(kind: llama_cpp.Kind, tmp_path: Path) -> None:
    config = LlamaConfig(96, 64, 2, 4, 96, 32, kv_heads=2, tied=True)
    model = initialise(LlamaLM(config), 0)
    llama_cpp.write(model, kind, tmp_path / "model.gguf")
    read = open_model(tmp_path / "model.gguf", 32)
    assert replace(read.config, norm_eps=config.norm_eps) == config
    for (name, a), b in zip(model.named_parameters(), read.parameters(), strict=True):
        assert (a - b).abs().max() <= (0 if kind == "F32" else a.abs().max() / 200), (
            name
        )


def test_a_run_is_watched(tmp_path: Path) -> None:
    program = tmp_path / "snakemake"
    code = "import subprocess, sys, time; b = bytearray(10**8)\n"
    code += "while time.process_time() < 1: pass\n"
    code += "time.sleep(1)\n"
    code += "job = 'import time\\nwhile time.process_time() < .5: pass'\n"
    program.write_text(code + "subprocess.run([sys.executable, '-c', job])\n")
    found = watch.watch((sys.executable, str(program)), tmp_path, os.environ)
    assert found.seconds > 2
    assert 0.7 < found.snakemake * found.seconds < 1.7  # a second of processor time
    assert 10**8 < found.memory < 3 * 10**8
    command = (sys.executable, "-c", "raise SystemExit('no such thing')")
    with pytest.raises(SystemExit, match="no such thing"):
        watch.watch(command, tmp_path, os.environ)


def test_the_paper_quotes_ratios_of_one_repeat(tmp_path: Path) -> None:
    frame = [
        {
            "case": f"{s}'s size, {b} blocks, float32",
            "implementation": name,
            "repeat": i,
            "value": v,
        }
        for s in ("study", "original")
        for b in (5, 8)
        for name, values in (
            (study.OURS, (1, 2, 2)),
            (study.THEIRS, (2, 3, 6)),
        )
        for i, v in enumerate(values)
    ]
    pd.DataFrame(frame).to_csv(tmp_path / "decode.csv", index=False)
    (tmp_path / "about.json").write_text(
        '{"decode": {"device": "A & B", "commit": "abc", "versions":'
        ' {"transformers": "5"}}}'
    )
    found = dict(study.benchmarks(tmp_path))
    assert found["benchmark.device"] == r"A \& B"
    assert found["benchmark.original.8"] == "2.0"  # of 2, 1.5 and 3
