"""Perplexity, generation and the latency harness."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from conftest import build, run_spec, sentences
from shallower.corpus import EVALUATION_SETS
from shallower.evaluation import latency, neighbours, perplexity
from shallower.evaluation.evaluate import evaluate
from shallower.evaluation.latency import Request, interleave, measure
from shallower.evaluation.neighbours import Neighbours
from shallower.evaluation.parameters import count, table_1
from shallower.evaluation.perplexity import document_losses
from shallower.evaluation.subjects import Job, Subject
from shallower.models.registry import FFNS
from shallower.models.variants import TWIN, entry
from shallower.sections import PaperScale
from shallower.tokens.shards import write_manifest, write_shard
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.loop import train
from shallower.wanted import paper_scale

# --- perplexity ---------------------------------------------------------------------


def test_document_losses_score_every_token_once() -> None:
    """Against a plain loop over tokens, with documents shorter and longer than T."""
    model = build("proposed", context=16)
    draw = np.random.default_rng(0)
    documents = [draw.integers(3, 300, n) for n in (5, 2, 17, 16, 60, 33)]
    losses, counts = document_losses(model, documents, batch_size=3)
    assert counts.tolist() == [len(document) - 1 for document in documents]
    for document, loss in zip(documents, losses, strict=True):
        expected = 0.0
        for position in range(1, len(document)):
            start = (position - 1) // 16 * 16
            seen = torch.from_numpy(document[start:position])[None]
            with torch.no_grad():
                logits = model(seen)[0, -1]
            expected -= torch.log_softmax(logits, -1)[document[position]].item()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_losses_do_not_depend_on_what_shares_a_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, draw = build("proposed", context=16), np.random.default_rng(1)
    documents = [draw.integers(3, 300, n) for n in (9, 40, 2, 16, 17, 5)]
    alone = [document_losses(model, [d], batch_size=1)[0][0] for d in documents]
    seen: list[int] = []
    monkeypatch.setattr(model.head, "forward", note_rows(seen, model.head.forward))
    for at_once, batch_size in ((16, 9), (32, 9), (2048, 4), (2048, 9)):
        monkeypatch.setattr(perplexity, "AT_ONCE", at_once)
        seen.clear()
        losses, counts = document_losses(model, documents, batch_size)
        assert losses == pytest.approx(alone, rel=1e-12)
        assert sum(seen) == counts.sum()  # padding gets no logits
        assert max(seen) <= at_once


def note_rows(seen: list[int], forward: Callable[[Tensor], Tensor]) -> Any:
    """`forward`, noting for how many tokens it is called."""

    def noting(states: Tensor) -> Tensor:
        seen.append(states.numel() // states.shape[-1])
        return forward(states)

    return noting


def test_an_uninformed_model_is_as_perplexed_as_its_vocabulary_is_large() -> None:
    model = build()
    with torch.no_grad():
        model.head.weight.zero_()
    losses, counts = document_losses(model, [np.arange(40)], batch_size=2)
    assert np.exp(losses.sum() / counts.sum()) == pytest.approx(300, rel=1e-6)


# --- a whole run's evaluation and latency -------------------------------------------


@pytest.fixture(scope="module")
def study(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Two trained models with an evaluation corpus, as the stages leave them."""
    folder = tmp_path_factory.mktemp("study")
    texts = pd.DataFrame({"text": sentences(20, seed=5), "domain": "toy"})
    texts["id"] = [f"t{i}" for i in range(20)]
    (folder / "corpus" / "text").mkdir(parents=True)
    pieces = Tokenizer(corpus / "tokenizer.model")
    for split in ("test", "validation"):
        text = folder / "corpus" / "text" / f"{split}.parquet"
        texts.to_parquet(text)
        shard = folder / "tokens" / split / "shard-0.bin"
        write_shard(text, pieces, 0, 1, shard)
        manifest = folder / "tokens" / split / "manifest.json"
        write_manifest([shard], corpus / "tokenizer.model", manifest)
    for name in ("completion", "chat", "qa"):
        halves = [text.split(" ", 6) for text in texts["text"]]
        table = pd.DataFrame(
            {
                "id": texts["id"],
                "prompt": [" ".join(half[:6]) for half in halves],
                "reference": [half[6] for half in halves],
                "group": "g",
            }
        )
        (folder / "corpus" / name).mkdir()
        table.to_parquet(folder / "corpus" / name / "test.parquet")
    specs = {}
    for head in ("baseline", "proposed", "three_matrices"):
        name = f"{head}-2"
        ffn = {"ffn": entry(FFNS[head])} if head in FFNS else {}
        head = "baseline" if ffn else head
        specs[name] = run_spec(head, steps=40, checkpoint_every=50)
        specs[name]["model"] |= ffn
        run = folder / "runs" / name / "seed0"
        train(specs[name], corpus / "train", run, folder / "checkpoints")
    return {"folder": folder, "specs": specs, "tokenizer": corpus / "tokenizer.model"}


def test_evaluation_rows(study: dict, tmp_path: Path) -> None:
    folder = study["folder"]
    settings = {"new_tokens": 8, "batch_size": 7, "samples_kept": 3}
    evaluate(
        folder / "runs" / "proposed-2" / "seed0",
        folder / "corpus",
        folder / "tokens",
        study["tokenizer"],
        settings | {"scored_on": ["text", *EVALUATION_SETS]},
        tmp_path / "out.parquet",
        tmp_path / "out.jsonl",
    )
    rows = pd.read_parquet(tmp_path / "out.parquet")
    assert list(rows.columns) == [
        *("dataset", "group", "sample", "metric", "value", "weight", "form")
    ]
    folded, rows = rows[rows["form"] == "folded"], rows[rows["form"] == "trained"]
    both = [t.set_index(["sample", "metric"])["value"] for t in (folded, rows)]
    nats = [values.xs("cross_entropy", level="metric") for values in both]
    assert (nats[0] - nats[1]).abs().max() < 1e-5
    errors = rows.set_index("metric")["value"]
    assert 0 < errors["fold_error_float64"] < 1e-10
    assert 0 < errors["fold_error_float32"] < 1e-4
    # The validation split was not asked for.
    nats = rows[rows["metric"] == "cross_entropy"]
    assert set(nats["dataset"]) == {"text"}
    pieces = Tokenizer(study["tokenizer"])
    lengths = [len(pieces.encode(text)) + 1 for text in sentences(20, seed=5)]
    assert nats["weight"].tolist() == lengths
    assert np.average(nats["value"], weights=nats["weight"]) < 3.5
    for name in ("completion", "chat", "qa"):
        part = rows[rows["dataset"] == name]
        assert (part["metric"].value_counts().drop("corpus_bleu") == 20).all()
        assert part.loc[part["metric"] == "rougeL", "value"].max() > 0.2
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [s["dataset"] for s in samples] == ["completion"] * 3 + ["chat"] * 3 + [
        "qa"
    ] * 3
    assert all(s["prediction"] for s in samples)


def test_only_the_first_documents_are_scored(study: dict, tmp_path: Path) -> None:
    folder, tables = study["folder"], []
    for documents in (None, 5):
        evaluate(
            folder / "runs" / "proposed-2" / "seed0",
            folder / "corpus",
            folder / "tokens",
            study["tokenizer"],
            {"new_tokens": 8, "batch_size": 7, "samples_kept": 0}
            | {"documents": documents, "scored_on": ["text"]},
            tmp_path / "out.parquet",
            tmp_path / "out.jsonl",
        )
        rows = pd.read_parquet(tmp_path / "out.parquet")
        tables.append(rows[rows["metric"] == "cross_entropy"])
    keys = ["form", "sample"]
    whole, first = (table.set_index(keys)["value"] for table in tables)
    assert len(first) == 2 * 5
    for form in ("trained", "folded"):
        assert list(first[form].index) == list(whole[form].index[:5])
        assert (first[form] - whole[form][:5]).abs().max() < 1e-5


def study_job(study: dict) -> Job:
    fixed = {"prompt_tokens": 8, "new_tokens": 3, "repeats": 2, "warmups": 1}
    sizes = {"width": 32, "heads": 4, "ffn_hidden": 64, "context": 32}
    paper = PaperScale(**sizes, vocabulary=400, depths=[1, 2])
    paper = paper_scale(paper, ["none", "three_matrices"])
    return Job(
        models=["baseline-2", "proposed-2"],
        others=["three_matrices-2"],
        front=[],
        arms={},
        seeds={name: [0] for name in study["specs"]},
        specs=study["specs"],
        runs=str(study["folder"] / "runs"),
        evaluations=str(study["folder"] / "evaluations"),
        corpus=str(study["folder"] / "corpus"),
        tokenizer=str(study["tokenizer"]),
        settings={
            "sessions": 2,
            "study": fixed,
            "paper": fixed,
            "uncached_repeats": 1,
            "prompts": 2,
            "step_repeats": 2,
            "bandwidth": {"megabytes": [1, 2], "repeats": 3},
        },
        new_tokens=5,
        prompt_tokens=24,
        paper=paper,
        threads=1,
        device="cpu",
    )


def test_every_model_is_in_every_session(study: dict, tmp_path: Path) -> None:
    job = study_job(study)
    files = ("latency", "steps", "bandwidth")
    measure(job, *(tmp_path / f"{name}.parquet" for name in files))
    table = pd.read_parquet(tmp_path / "latency.parquet")
    columns = "model seed form mode scale workload batch dtype device threads session"
    columns += " repeat prompt_tokens generated_tokens token_index nanoseconds"
    assert set(columns.split()) <= set(table.columns)
    assert (table["nanoseconds"] > 0).all()
    names = {
        "study": {*study["specs"], "baseline-2" + TWIN},
        "paper": {f"{v}-{d}" for v in ("baseline", "proposed") for d in (1, 2)}
        | {"baseline-2" + TWIN, "none-2", "three_matrices-2"},
    }
    for session in (0, 1):
        part = table[table["session"] == session]
        for scale, models in names.items():
            here = part[(part["scale"] == scale) & (part["workload"] == "fixed")]
            assert set(here["model"]) == models
        assert {"eager", "uncached"} == set(part["mode"])
        assert {"fixed", "completion", "chat", "qa"} == set(part["workload"])
    # Fixed work: each request gives as many tokens, whatever the model would say.
    eager = table[(table["workload"] == "fixed") & (table["mode"] == "eager")]
    by_request = eager.groupby(["model", "form", "scale", "session", "repeat"])
    assert (by_request["token_index"].apply(list).map(tuple) == (0, 1, 2)).all()
    forms = table.groupby("form")["model"].agg(set)
    assert forms["folded"] == {"proposed-2", "proposed-1"}
    assert forms["collapsed"] == {"three_matrices-2"}
    steps = pd.read_parquet(tmp_path / "steps.parquet")
    assert (steps.groupby(["model", "session"]).size() == 2).all()
    assert set(steps["model"]) == {"baseline-2", "proposed-2"}
    reads = pd.read_parquet(tmp_path / "bandwidth.parquet")
    contract = {"session", "threads", "device", "bytes", "repeat", "nanoseconds"}
    assert contract <= set(reads.columns)
    assert (reads.groupby(["session", "bytes"]).size() == 3).all()
    assert set(reads["bytes"]) == {2**20, 2**21}


def test_the_order_of_models_is_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def note(network: object, request: Request, _: object) -> list[int]:
        seen.append(network)
        return [1]

    monkeypatch.setattr(latency, "time_request", note)
    networks = [build() for _ in range(4)]
    subjects = [
        Subject(f"baseline-{i}", 0, "trained", "study", n)
        for i, n in enumerate(networks)
    ]
    requests = [Request("fixed", "eager", [1], 1, None, r) for r in range(6)]
    rows = interleave(subjects, requests, {"warmups": 2}, random.Random(0))
    timed = [tuple(map(id, seen[i : i + 4])) for i in range(8, len(seen), 4)]
    assert len(rows) == 24
    assert all(sorted(order) == sorted(map(id, networks)) for order in timed)
    assert len(set(timed)) > 1


def test_slower_models_take_longer() -> None:
    """The harness tells a model from one with eight times the blocks."""
    request = Request("fixed", "eager", [1, 2, 3], 10, None, 0)
    totals = {}
    for depth in (1, 8):
        network = build(depth=depth)
        times = [latency.time_request(network, request) for _ in range(7)]
        totals[depth] = np.median([sum(t) for t in times])
    assert totals[8] > 2 * totals[1]


def test_neighbours_are_what_is_busy_beside_us(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"monotonic": 0.0, "machine_busy": 100.0, "own_busy": 5.0}
    monkeypatch.setattr(neighbours.time, "monotonic", lambda: clock["monotonic"])
    for name in ("machine_busy", "own_busy"):
        monkeypatch.setattr(neighbours, name, partial(clock.__getitem__, name))
    count = Neighbours()
    clock |= {"monotonic": 10.0, "machine_busy": 113.0, "own_busy": 14.0}
    # 13 seconds of cores were busy, 9 of them ours: 4 in 10 seconds.
    assert count.cores_used_by_others() == pytest.approx(0.4)
    clock["machine_busy"] = float("nan")
    assert np.isnan(count.cores_used_by_others())


def test_own_work_is_own_work() -> None:
    before = neighbours.own_busy()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert neighbours.own_busy() - before >= 0.09


def test_no_two_models_of_the_study_share_memory(
    study: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared weights would be in the cache already for whoever is timed second."""
    seen: list[Subject] = []
    monkeypatch.setattr(latency, "interleave", lambda s, *_: seen.extend(s) or [])
    job = study_job(study)
    latency.time_study_scale(job, 0, random.Random(0), torch.device("cpu"))
    networks = {id(subject.network): subject.network for subject in seen}
    pointers = [p.data_ptr() for n in networks.values() for p in n.parameters()]
    assert {s.form for s in seen} == {"trained", "folded", "collapsed"}
    assert len(pointers) == len(set(pointers))


def test_parameter_table(study: dict) -> None:
    table = count(study["specs"], paper_scale(PaperScale(depths=[5, 8])))
    assert list(table["scale"]) == ["study"] * 3 + ["paper"] * 4
    chain = table.set_index("model").loc["three_matrices-2"]
    assert chain["parameters_trained"] > chain["parameters_deployed"]
    assert chain["flops_per_token"] > chain["flops_per_token_deployed"]
    text = table_1(table)
    assert "128,789,504" in text
    assert "1,056,768" in text
