"""The latency job: what is timed, by which path, and what its rows say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from models_for_tests import tiny
from runs_for_tests import run_spec, write_corpus, write_run
from shallower.corpus import EVALUATION_SETS
from shallower.errors import UserError
from shallower.evaluation.latency import cases
from shallower.evaluation.latency.cases import Case, Job, front_cases
from shallower.evaluation.latency.job import measure
from shallower.files import write_json
from shallower.interventions.apply import apply
from shallower.interventions.base import Choice
from shallower.interventions.eliminate import Elimination
from shallower.models.config import LlamaConfig, SkippedParts
from shallower.models.llama import LlamaLM
from shallower.models.registry import FFNS, HEADS
from shallower.models.transforms import deploy
from shallower.study.names import joined, twin
from shallower.study.runs import LatencySpec, OriginalSpec, TimedModel
from shallower.study.schema import Bandwidth, Latency, Workload
from shallower.training.runs import load_decoder

CPU = torch.device("cpu")
ELIMINATION = Elimination((1.0, 0.5, 0.25))
CARRIED = Elimination((1.0, 0.5, 0.5))  # where the last block has nothing to rank by
LAST = SkippedParts(attention=(2,))
# (run, intervention) -> choice.
CHOICES = {
    ("baseline-3", "skip=attention.last.1"): Choice(LAST),
    ("baseline-3", "eliminate=acc.2"): Choice(elimination=ELIMINATION),
    ("baseline-3", "skip=attention.last.1__eliminate=acc.2"): Choice(LAST, CARRIED),
    ("proposed-3", "skip=ffn.last.1"): Choice(SkippedParts(ffn=(2,))),
}
RUNS = ["baseline-2", "baseline-3", "proposed-3", "three_matrices-3"]
FRONT = [*((run, "") for run in RUNS), *CHOICES]
ORIGINAL = OriginalSpec(
    model=LlamaConfig(400, 32, 3, 4, 64, 32),
    depths=[1, 3],
    heads={name: HEADS[name] for name in ("baseline", "proposed")},
    ffns={name: FFNS[name] for name in ("none", "three_matrices")},
    skips=["attention.last.1", "block.last.2"],
    speedups=[1.25],
    lengths=[16, 32],
)
FIXED = Workload(prompt_tokens=8, new_tokens=3, repeats=4, warmups=1)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Several would wait for each other longer than these models take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def job(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Untrained runs of two seeds; interventions are evaluated with seed 0 alone."""
    folder, specs = tmp_path_factory.mktemp("latency"), {}
    write_corpus(folder, corpus / "tokenizer.model")
    for label in RUNS:
        variant, depth = label.split("-")
        head = variant if variant in HEADS else "baseline"
        config = tiny(head, FFNS.get(variant), depth=int(depth), context=48)
        for seed in (0, 1):
            run = folder / "runs" / label / f"seed{seed}"
            specs[label] = write_run(run, run_spec(label, config, seed))
        entries = {i: c.to_json() for (run, i), c in CHOICES.items() if run == label}
        path = folder / "evaluations" / label / "seed0.interventions.json"
        path.parent.mkdir(parents=True)
        write_json(path, {"model": label, "seed": 0, "interventions": entries})
    depth = ["baseline-2", "baseline-3", "proposed-3"]
    models = [
        TimedModel(
            label=joined(run, intervention),
            run=run,
            intervention=intervention,
            seeds=[0] if intervention else [0, 1],
            workloads=["front"]
            if intervention
            else ["all" if run in depth else "fixed", "front"],
        )
        for run, intervention in FRONT
    ]
    spec = LatencySpec(
        settings=Latency(
            sessions=2,
            study=FIXED,
            original=FIXED,
            uncached_repeats=1,
            prompts=2,
            step_repeats=2,
            interventions={
                "study": {"lengths": [12, 48], "repeats": 2},
                "original": {"lengths": [16, 32], "repeats": 2},
            },
            bandwidth=Bandwidth(megabytes=[1, 2], repeats=3),
        ),
        models=models,
        specs=specs,
        new_tokens=5,
        prompt_tokens=36,
        original=ORIGINAL,
    )
    return Job(
        spec,
        folder / "runs",
        folder / "evaluations",
        folder / "corpus",
        corpus / "tokenizer.model",
        1,
        "cpu",
    )


def labels(found: list[Case]) -> list[tuple[str, str]]:
    return [(case.model, case.intervention) for case in found]


def storage(network: LlamaLM) -> Iterator[int]:
    for tensor in (*network.parameters(), network.rotary):
        yield tensor.untyped_storage().data_ptr()


# --- cases --------------------------------------------------------------------------


def test_models_of_the_front_are_deployed_and_have_a_twin(job: Job) -> None:
    found = front_cases(job, 0, CPU)
    assert labels(found) == [*FRONT, (twin("baseline-3"), "")]
    forms = {(case.model, case.intervention): case.form for case in found}
    folded = {key for key, form in forms.items() if form == "folded"}
    assert folded == {("proposed-3", ""), ("proposed-3", "skip=ffn.last.1")}
    assert forms["three_matrices-3", ""] == "collapsed"
    tokens = torch.arange(5, 15)[None]
    for case in found[:-1]:
        assert case.network.config == deploy(case.network).config
        choice = CHOICES.get((case.model, case.intervention), Choice())
        run = load_decoder(job.runs / case.model / "seed0")
        with torch.no_grad():
            expected = apply(run, choice)(tokens)
            assert (case.network(tokens) - expected).abs().max() < 1e-3
        assert case.elimination == choice.elimination


def test_sessions_take_seeds_in_turn_of_those_that_were_evaluated(job: Job) -> None:
    for session in range(3):
        for case in front_cases(job, session, CPU):
            assert case.seed == (0 if case.intervention else session % 2)
    (first,) = (c for c in front_cases(job, 1, CPU) if c.model == "baseline-2")
    expected = load_decoder(job.runs / "baseline-2" / "seed1")
    assert torch.equal(first.network.head.weight, expected.head.weight)


def test_a_choice_that_is_missing_is_named(job: Job) -> None:
    with pytest.raises(UserError, match=r"seed1\.interventions\.json: no such file"):
        cases.read_choice(job.evaluations, "baseline-3", 1, "eliminate=acc.2")
    with pytest.raises(UserError, match="no intervention 'eliminate=acc"):
        cases.read_choice(job.evaluations, "baseline-3", 0, "eliminate=acc.3")


def test_no_two_cases_share_memory(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared weights would be in the cache already for the case that is second."""
    depth, others = cases.study_cases(job, 0, CPU)
    assert {case.form for case in depth + others} == {"trained", "folded", "collapsed"}
    assert labels(depth)[-1] == (twin("baseline-3"), "")
    for found in (depth + others, front_cases(job, 0, CPU)):
        pointers = [p for case in found for p in storage(case.network)]
        assert len(pointers) == len(set(pointers))
    # Where no cache holds a model, memory is what there is too little of.
    monkeypatch.setattr(cases, "BEYOND_CACHES", 0)
    found = front_cases(job, 0, CPU)
    assert len({c.network.head.weight.data_ptr() for c in found}) == len(RUNS)


def test_interventions_at_the_originals_size_share_the_baselines_blocks() -> None:
    plain, _ = cases.original_cases(ORIGINAL, CPU)
    baseline, intervened = cases.intervened_cases(ORIGINAL, plain)
    assert baseline.model == "baseline-3"
    assert labels(intervened) == [
        ("baseline-3", "skip=attention.last.1"),
        ("baseline-3", "skip=block.last.2"),
        ("baseline-3", "eliminate=linear.1.25"),
    ]
    for case in intervened:
        assert (case.scale, case.form, case.seed) == ("original", "trained", 0)
        assert {*storage(case.network)} <= {*storage(baseline.network)}
    assert [case.elimination is None for case in intervened] == [True, True, False]
    assert intervened[1].network.config.skip == SkippedParts((1, 2), (1, 2))


# --- the job --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(job: Job, tmp_path_factory: pytest.TempPathFactory) -> list[pd.DataFrame]:
    """latency, step_time and bandwidth of two sessions."""
    folder = tmp_path_factory.mktemp("tables")
    paths = [folder / f"{name}.parquet" for name in ("latency", "step", "bandwidth")]
    # A session times interventions with seed 0 alone, the only one evaluated.
    measure(job, *paths)
    return [pd.read_parquet(path) for path in paths]


def keys_of(rows: pd.DataFrame) -> set[tuple[str, str]]:
    return set(zip(rows["model"], rows["intervention"], strict=True))


@pytest.mark.slow
def test_every_model_is_in_every_session(tables: list[pd.DataFrame]) -> None:
    latency, steps, reads = tables
    columns = "model intervention seed form mode scale workload batch dtype device"
    columns += " threads session repeat prompt_tokens generated_tokens token_index"
    columns += " nanoseconds background_load throttled"
    assert set(latency.columns) == set(columns.split())
    assert (latency["nanoseconds"] > 0).all()
    plain = {
        "study": {*RUNS, twin("baseline-3")},
        "original": {
            *(f"{v}-{d}" for v in ("baseline", "proposed") for d in (1, 3)),
            *(twin("baseline-3"), "none-3", "three_matrices-3"),
        },
    }
    skips = {("baseline-3", f"skip={text}") for text in ORIGINAL.skips}
    for session in (0, 1):
        part = latency[latency["session"] == session]
        for scale, models in plain.items():
            here = part[(part["scale"] == scale) & (part["workload"] == "fixed")]
            expected = {(model, "") for model in models}
            assert keys_of(here) == expected | (skips if scale == "original" else set())
        front = part[part["workload"] == "continuation"]
        assert keys_of(front) == {*FRONT, (twin("baseline-3"), "")}
        assert {*EVALUATION_SETS} < set(part["workload"])
        assert set(part["mode"]) == {"eager", "uncached"}
        step = steps[steps["session"] == session]
        assert set(step["model"]) == {"baseline-2", "baseline-3", "proposed-3"}
        assert (step.groupby("model").size() == 2).all()
        counts = reads[reads["session"] == session].groupby("bytes").size()
        assert counts.to_dict() == {2**20: 3, 2**21: 3}


@pytest.mark.slow
def test_requests_have_their_lengths(tables: list[pd.DataFrame]) -> None:
    latency, *_ = tables
    keys = ["model", "intervention", "form", "scale", "session", "repeat"]
    for workload, prompt in (("fixed", 8), ("continuation", 36)):
        part = latency[(latency["workload"] == workload) & (latency["mode"] == "eager")]
        requests = part.groupby(keys)["token_index"].apply(tuple)
        assert set(requests) == {(0, 1, 2)}
        assert set(requests.index.get_level_values("repeat")) == {0, 1, 2, 3}
        assert set(part["prompt_tokens"]) == {prompt}
        assert set(part["generated_tokens"]) == {3}
    forms = latency[latency["workload"] == "continuation"].groupby(keys[:2])["form"]
    assert (forms.nunique() == 1).all()


@pytest.mark.slow
def test_first_tokens_by_the_prompts_length(tables: list[pd.DataFrame]) -> None:
    latency, *_ = tables
    originals = [f"skip={text}" for text in ORIGINAL.skips] + ["eliminate=linear.1.25"]
    for scale, lengths, run, interventions in (
        ("study", [12, 48], "baseline-3", [i for r, i in CHOICES if r == "baseline-3"]),
        ("original", [16, 32], "baseline-3", originals),
    ):
        named = latency["workload"].str.startswith("prompt_")
        part = latency[named & (latency["scale"] == scale)]
        assert set(part["workload"]) == {f"prompt_{n}" for n in lengths}
        written = part["workload"].str.removeprefix("prompt_").astype(int)
        assert (part["prompt_tokens"] == written).all()
        assert set(part["token_index"]) == {0}
        assert set(part["generated_tokens"]) == {1}
        assert keys_of(part) == {(run, i) for i in ("", *interventions)}
        counts = part.groupby(["intervention", "workload", "session"]).size()
        assert set(counts) == {2}
