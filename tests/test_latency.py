"""The latency job: what is timed, by which path, and what its rows say."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from models_for_tests import build, tiny
from runs_for_tests import run_spec, write_corpus, write_run
from shallower.corpus import EVALUATION_SETS
from shallower.errors import UserError
from shallower.evaluation.latency import cases, decode_modes, harness
from shallower.evaluation.latency import job as latency_job
from shallower.evaluation.latency.cases import Case, Job, front_cases
from shallower.evaluation.latency.harness import Request, interleave, time_request
from shallower.evaluation.latency.job import measure
from shallower.files import write_json
from shallower.interventions.apply import apply, skip
from shallower.interventions.base import Choice
from shallower.interventions.eliminate import Elimination
from shallower.interventions.forward import continuation_features
from shallower.models import decoding
from shallower.models.config import LlamaConfig, SkippedParts
from shallower.models.decoding import StaticCache
from shallower.models.llama import LlamaLM
from shallower.models.registry import FFNS, HEADS
from shallower.models.transforms import deploy
from shallower.study.names import joined, twin
from shallower.study.runs import LatencySpec, OriginalSpec, TimedModel
from shallower.study.schema import Bandwidth, Latency, Repeats, Workload
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
    model=LlamaConfig(400, 32, 2, 4, 64, 32),
    depths=[1, 2],
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
    assert baseline.model == "baseline-2"
    assert labels(intervened) == [
        ("baseline-2", "skip=attention.last.1"),
        ("baseline-2", "skip=block.last.2"),
        ("baseline-2", "eliminate=linear.1.25"),
    ]
    for case in intervened:
        assert (case.scale, case.form, case.seed) == ("original", "trained", 0)
        assert {*storage(case.network)} <= {*storage(baseline.network)}
    assert [case.elimination is None for case in intervened] == [True, True, False]
    assert intervened[1].network.config.skip == SkippedParts((0, 1), (0, 1))


# --- the harness ----------------------------------------------------------------------


def test_the_order_of_cases_is_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def note(network: object, request: Request, _: object) -> list[int]:
        seen.append(network)
        return [1]

    monkeypatch.setattr(harness, "time_request", note)
    found = [Case(f"baseline-{i}", 0, "trained", "study", build()) for i in range(4)]
    requests = [Request("fixed", "eager", [1], 1, None, r) for r in range(6)]
    rows = interleave(found, requests, 2, random.Random(0))
    timed = [tuple(map(id, seen[i : i + 4])) for i in range(8, len(seen), 4)]
    assert len(rows) == 24
    networks = sorted(id(case.network) for case in found)
    assert all(sorted(order) == networks for order in timed)
    assert len(set(timed)) > 1


def chosen_tokens(
    network: LlamaLM, request: Request, elimination: Elimination | None
) -> list[int]:
    """The tokens that a timed request chose, by what its output head gave."""
    tokens: list[int] = []
    hook = network.head.register_forward_hook(
        lambda _, __, logits: tokens.append(int(logits[0, -1].argmax()))
    )
    times = time_request(network, request, elimination)
    hook.remove()
    assert len(times) == len(tokens)
    assert min(times) > 0
    return tokens


@pytest.mark.parametrize("new", [1, 6])
@pytest.mark.parametrize("skipped", [(), (1,)])
def test_a_timed_elimination_chooses_the_tokens_of_one_pass(
    new: int, skipped: tuple[int, ...]
) -> None:
    """Over prompt and answer, without any cache."""
    network = skip(build("proposed", depth=3, context=32), SkippedParts(skipped))
    prompt = torch.randint(300, (32 - new + 1,), generator=torch.manual_seed(3))
    elimination = Elimination((0.6, 0.6, 0.2))
    request = Request("continuation", "eager", prompt.tolist(), new, None, 0)
    tokens = chosen_tokens(network, request, elimination)
    everything = torch.cat((prompt, torch.tensor(tokens)))[None, :-1]
    with torch.no_grad():
        states = continuation_features(network, everything, len(prompt), elimination)
        assert network.head(states).argmax(-1)[0].tolist() == tokens
        plain = network(everything)[:, len(prompt) - 1 :]
    assert (plain - network.head(states)).abs().max() > 1e-3


def test_cached_and_uncached_requests_choose_the_same_and_stop() -> None:
    network = build("proposed", depth=3, context=32)
    prompt = list(range(3, 20))
    cached, uncached = (
        chosen_tokens(network, Request("fixed", mode, prompt, 9, None, 0), None)
        for mode in ("eager", "uncached")
    )
    assert cached == uncached
    stop = cached[3]
    request = Request("qa", "eager", prompt, 9, stop, 0)
    assert chosen_tokens(network, request, None) == cached[: cached.index(stop) + 1]


def test_only_the_first_token_includes_the_prefill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = {"now": 0}
    rooms: list[int] = []
    real = harness.prefill

    def slow(network: LlamaLM, tokens: Any, how: Elimination, room: int) -> Any:
        clock["now"] += 1000
        rooms.append(room)
        return real(network, tokens, how, room)

    monkeypatch.setattr(harness, "prefill", slow)
    monkeypatch.setattr(harness.time, "perf_counter_ns", lambda: clock["now"])
    network = build(depth=3)
    request = Request("continuation", "eager", [*range(3, 23)], 4, None, 0)
    assert time_request(network, request, ELIMINATION) == [1000, 0, 0, 0]
    assert rooms == [3]
    assert time_request(network, request) == [0] * 4


def test_a_prompt_may_fill_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token is read off the prompt; there is none to store after it."""
    capacities: list[int] = []
    real = harness.KeyValueCache

    class Noted(real):
        def __init__(self, model: LlamaLM, batch: int, capacity: int) -> None:
            capacities.append(capacity)
            super().__init__(model, batch, capacity)

    monkeypatch.setattr(harness, "KeyValueCache", Noted)
    lengths = Workload.model_construct(prompt_tokens=16, new_tokens=1, repeats=2)
    requests = harness.fixed_requests(lengths, "eager", "prompt_16")
    case = Case("baseline-2", 0, "trained", "study", build(context=16))
    rows = interleave([case], requests, 3, random.Random(0))
    assert capacities == [16] * 5
    assert [row["token_index"] for row in rows] == [0, 0]


# --- decoding modes -------------------------------------------------------------------


def plain_cases() -> list[Case]:
    return [
        Case(f"{variant}-{depth}", 0, form, "study", build(variant, depth=depth))
        for variant, form in (
            *(("baseline", "trained"), ("proposed", "trained")),
            *(("proposed", "folded"), ("silu", "trained")),
        )
        for depth in (1, 2, 3)
    ] + [Case(twin("baseline-3"), 0, "trained", "study", build(depth=3))]


def test_modes_are_interleaved_at_the_extreme_depths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both modes of every model in every repeat, under keys of their own."""
    modes = [
        decode_modes.Decoder(mode, decoding.eager, 11) for mode in ("eager", "compiled")
    ]
    capacities: list[int] = []
    monkeypatch.setattr(
        latency_job, "decoders", lambda _, size: capacities.append(size) or modes
    )
    what = plain_cases(), random.Random(0), CPU
    rows = latency_job.time_decode_modes(FIXED, Repeats(repeats=2), *what)
    assert capacities == [11] * 6  # 8 of the prompt and 3 new ones
    keys = ["model", "form", "mode", "repeat", "token_index"]
    found = [tuple(row[key] for key in keys) for row in rows]  # type: ignore[literal-required]
    assert len(found) == len(set(found)) == 6 * 2 * 2 * 3
    named = {"baseline-1", "baseline-3", "proposed-1", "proposed-3"}
    assert {row["model"] for row in rows} == named
    assert {row["workload"] for row in rows} == {"decode"}
    order = [row["mode"] for row in rows if row["token_index"] == 0]
    assert order[:6] not in (["eager"] * 6, ["compiled"] * 6)
    assert latency_job.time_decode_modes(FIXED, None, *what) == []


def test_steps_after_the_prefill_are_the_decoders_and_keep_their_shapes() -> None:
    """A cache of another capacity would be compiled again inside the timed part."""
    shapes: list[torch.Size] = []
    positions: list[int] = []

    def prepare(model: LlamaLM, cache: StaticCache) -> decoding.Step:
        shapes.append(cache.layers[0].shape)
        step = decoding.eager(model, cache)

        def noted(tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
            positions.append(int(position))
            return step(tokens, position)

        return noted

    decoder = decode_modes.Decoder("compiled", prepare, 9)
    for tokens in (2, 4):
        times = decode_modes.time_steps(build(), decoder, [1] * 5, tokens)
        assert len(times) == tokens
        assert min(times) > 0
    assert len(set(shapes)) == 1
    assert positions == [5, 5, 6, 7]


def test_without_a_compiler_only_eager_steps_are_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decode_modes, "has_compiler", lambda: False)
    assert [d.mode for d in decode_modes.decoders(CPU, 9)] == ["eager"]
    assert "no C++ compiler" in capsys.readouterr().err
    monkeypatch.setattr(decode_modes, "has_compiler", lambda: True)
    modes = [d.mode for d in decode_modes.decoders(CPU, 9)]
    assert modes == ["eager", "compiled"]
    cuda = decode_modes.decoders(torch.device("cuda"), 9)
    assert [d.mode for d in cuda] == ["eager", "graph"]


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


def test_every_model_is_in_every_session(tables: list[pd.DataFrame]) -> None:
    latency, steps, reads = tables
    columns = "model intervention seed form mode scale workload batch dtype device"
    columns += " threads session repeat prompt_tokens generated_tokens token_index"
    columns += " nanoseconds background_load"
    assert set(latency.columns) == set(columns.split())
    assert (latency["nanoseconds"] > 0).all()
    plain = {
        "study": {*RUNS, twin("baseline-3")},
        "original": {
            *(f"{v}-{d}" for v in ("baseline", "proposed") for d in (1, 2)),
            *(twin("baseline-2"), "none-2", "three_matrices-2"),
        },
    }
    skips = {("baseline-2", f"skip={text}") for text in ORIGINAL.skips}
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


def test_first_tokens_by_the_prompts_length(tables: list[pd.DataFrame]) -> None:
    latency, *_ = tables
    originals = [f"skip={text}" for text in ORIGINAL.skips] + ["eliminate=linear.1.25"]
    for scale, lengths, run, interventions in (
        ("study", [12, 48], "baseline-3", [i for r, i in CHOICES if r == "baseline-3"]),
        ("original", [16, 32], "baseline-2", originals),
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
