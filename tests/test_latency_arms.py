"""Latency of arms: who is timed, by which path, and what the rows say."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from conftest import build, tiny
from shallower.analysis import sessions
from shallower.analysis.raw import latency_rows
from shallower.analysis.roofline import attending, bytes_per_token
from shallower.config import load_study
from shallower.errors import UserError
from shallower.evaluation import latency, subjects
from shallower.evaluation.latency import Request, time_request
from shallower.evaluation.parameters import count, table_1
from shallower.evaluation.subjects import Job, Subject, front_subjects
from shallower.files import write_json
from shallower.models.arms import arm_entry
from shallower.models.elimination import continuation_features
from shallower.models.initial import initialise
from shallower.models.llama import LlamaLM
from shallower.models.registry import FFNS
from shallower.models.retention import Elimination, prefill_speedup
from shallower.models.skipping import skip
from shallower.models.transforms import deploy
from shallower.models.variants import TWIN, Skip, entry
from shallower.sections import Arms, PaperScale
from shallower.training.runs import load_run, save_weights
from shallower.wanted import paper_scale

CPU = torch.device("cpu")
HOW = Elimination((1.0, 0.5, 0.25))
HELD = Elimination((1.0, 0.5, 0.5))  # where the last block has nothing to rank by
LATTER = Skip(attention=(2,))
# Arm -> what is left out and eliminated; runs are what stands before.
ENTRIES = {
    "baseline-3__skip=attention.latter.1": arm_entry(LATTER, None),
    "baseline-3__eliminate=acc.2": arm_entry(Skip(), HOW),
    "baseline-3__skip=attention.latter.1__eliminate=acc.2": arm_entry(LATTER, HELD),
    "proposed-3__skip=ffn.latter.1": arm_entry(Skip(ffn=(2,)), None),
}
FRONT = ["baseline-2", "baseline-3", "proposed-3", "three_matrices-3", *ENTRIES]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Several would wait for each other longer than these models take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained runs of two seeds with what is known of their arms, as stages leave it.

    Arms are evaluated with seed 0 alone.
    """
    folder = tmp_path_factory.mktemp("front")
    for variant, depth in (
        *(("baseline", 2), ("baseline", 3), ("proposed", 3)),
        ("three_matrices", 3),
    ):
        sizes = asdict(tiny("proposed" if variant == "proposed" else "baseline"))
        sizes |= {"depth": depth, "context": 48, "ffn": {}, "skip": {}}
        sizes |= {"ffn": entry(FFNS[variant])} if variant in FFNS else {}
        name = f"{variant}-{depth}"
        for seed in (0, 1):
            run = folder / "runs" / name / f"seed{seed}"
            run.mkdir(parents=True)
            (run / "spec.yaml").write_text(yaml.safe_dump({"model": sizes}))
            network = initialise(LlamaLM(subjects.LlamaConfig.parse(sizes)), seed)
            save_weights(network.state_dict(), run / "model.safetensors")
        arms = {k: v for k, v in ENTRIES.items() if k.startswith(name)}
        described = folder / "evaluations" / name / "seed0.arms.json"
        if arms:
            described.parent.mkdir(parents=True)
            write_json(described, {"model": name, "seed": 0, "arms": arms})
    return folder


LENGTHS = {
    "study": {"lengths": [12, 48], "repeats": 2},
    "paper": {"lengths": [16, 32], "repeats": 2},
    "skips": ["attention.latter.1", "block.latter.2", "ffn.latter.3"],
    "speedups": [1.25],
}
PAPER = PaperScale(
    width=32, heads=4, ffn_hidden=64, context=32, vocabulary=400, depths=[1, 2]
)


def make_job(place: Path, **changes: Any) -> Job:
    fixed = {"prompt_tokens": 8, "new_tokens": 3, "repeats": 4, "warmups": 5}
    arms = changes.pop("arms", LENGTHS)
    plain: dict[str, Any] = {
        "models": ["baseline-2", "baseline-3", "proposed-3"],
        "others": [],
        "front": FRONT,
        "arms": {arm: arm.split("__")[0] for arm in ENTRIES},
        "seeds": {name: [0, 1] for name in FRONT[:4]} | {arm: [0] for arm in ENTRIES},
        "runs": str(place / "runs"),
        "evaluations": str(place / "evaluations"),
        "settings": {"study": fixed, "paper": fixed, "arms": arms, "compiled": None},
        "prompt_tokens": 36,
        "paper": paper_scale(PAPER, [], Arms(**arms) if arms else None),
        "device": "cpu",
    }
    nothing = {field.name: None for field in fields(Job)}
    return Job(**nothing | plain | changes)


def storage(network: LlamaLM) -> Iterator[int]:
    for tensor in (*network.parameters(), network.rotary):
        yield tensor.untyped_storage().data_ptr()


# --- who ----------------------------------------------------------------------------


def test_the_front_is_deployed_and_has_a_twin(place: Path) -> None:
    found = front_subjects(make_job(place), 0, CPU)
    assert [s.model for s in found] == [*FRONT, "baseline-3" + TWIN]
    forms = {s.model: s.form for s in found}
    folded = {"proposed-3", "proposed-3__skip=ffn.latter.1"}
    assert {model for model, form in forms.items() if form == "folded"} == folded
    assert forms["three_matrices-3"] == "collapsed"
    tokens = torch.arange(5, 15)[None]
    for subject in found:
        assert subject.network.config == deploy(subject.network).config
        run = subject.model.split("__")[0]
        whole = load_run(place / "runs" / run / "seed0")
        described = ENTRIES.get(subject.model, arm_entry(Skip(), None))
        due = skip(whole, **described["skip"])
        with torch.no_grad():
            gap = (due(tokens) - subject.network(tokens)).abs().max()
        assert gap < 1e-5
        assert (subject.elimination is not None) == ("eliminate" in subject.model)
        assert subject.elimination in (None, HOW, HELD)


def test_a_session_takes_its_seed_and_arms_one_that_they_have(place: Path) -> None:
    job = make_job(place)
    for session in range(3):
        seeds = {s.model: s.seed for s in front_subjects(job, session, CPU)}
        assert {seeds[arm] for arm in ENTRIES} == {0}
        assert {seeds[run] for run in FRONT[:4]} == {session % 2}
        assert seeds["baseline-3" + TWIN] == session % 2
    (first,) = (s for s in front_subjects(job, 1, CPU) if s.model == "baseline-2")
    expected = load_run(place / "runs" / "baseline-2" / "seed1")
    assert torch.equal(first.network.head.weight, expected.head.weight)


def test_an_arm_that_is_not_described_is_named(place: Path) -> None:
    job = make_job(place, seeds={name: [1] for name in FRONT})
    with pytest.raises(UserError, match=r"seed1\.arms\.json: no such file"):
        front_subjects(job, 0, CPU)


def test_no_two_subjects_of_the_front_share_memory(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = front_subjects(make_job(place), 0, CPU)
    pointers = [p for subject in found for p in storage(subject.network)]
    assert len(pointers) == len(set(pointers))
    # Where no cache holds a model, memory is what there is too little of.
    monkeypatch.setattr(subjects, "BEYOND_CACHES", 0)
    found = front_subjects(make_job(place), 0, CPU)
    heads = {s.model: s.network.head.weight.data_ptr() for s in found}
    assert len(set(heads.values())) == 4  # runs


def test_arms_of_the_papers_size_share_the_deepest_baselines_blocks(
    place: Path,
) -> None:
    job = make_job(place)
    some, _ = subjects.paper_subjects(job.paper, CPU)
    whole, arms = subjects.paper_arms(job.paper, some)
    assert whole.model == "baseline-2"
    # Three blocks are more than there are.
    assert [arm.model for arm in arms] == [
        "baseline-2__skip=attention.latter.1",
        "baseline-2__skip=block.latter.2",
        "baseline-2__eliminate=linear.1.25",
    ]
    assert [arm.network.config.skip for arm in arms] == [
        Skip(attention=(1,)),
        Skip(attention=(0, 1), ffn=(0, 1)),
        Skip(),
    ]
    assert {(a.scale, a.form, a.seed) for a in arms} == {("paper", "trained", 0)}
    for arm in arms:
        assert {*storage(arm.network)} <= {*storage(whole.network)}
    assert [arm.elimination is None for arm in arms] == [True, True, False]
    # Tuned for the longest prompt, and no further than it takes.
    _, _, entry = job.paper["arms"].values()
    model = load_sizes(job.paper)
    how = entry["elimination"]
    counts = Elimination(**how | {"profile": tuple(how["profile"])}).counts(32)
    assert 1.25 <= prefill_speedup(model, counts, 32) < 1.3


def load_sizes(paper: dict[str, Any]) -> dict[str, Any]:
    apart = ("depths", "variants", "ffns", "arms")
    sizes = {k: v for k, v in paper.items() if k not in apart}
    return sizes | {"depth": max(paper["depths"]), "head": {}}


def test_a_speedup_beyond_the_profile_is_refused() -> None:
    arms = Arms(**LENGTHS | {"speedups": [4]})
    with pytest.raises(UserError, match=r"latency\.arms\.speedups: speed-up 4"):
        paper_scale(PAPER, [], arms)


# --- by which path ------------------------------------------------------------------


def chosen_tokens(network: LlamaLM, request: Request, how: Elimination) -> list[int]:
    """The tokens that a timed request chose, by what its output head gave."""
    found: list[int] = []
    hook = network.head.register_forward_hook(
        lambda _, __, logits: found.append(int(logits[0, -1].argmax()))
    )
    times = time_request(network, request, how)
    hook.remove()
    assert len(times) == len(found)
    assert min(times) > 0
    return found


@pytest.mark.parametrize("new", [1, 6])
@pytest.mark.parametrize("left_out", [(), (1,)])
def test_a_timed_elimination_chooses_what_training_says(
    new: int, left_out: tuple[int, ...]
) -> None:
    """Against one pass over prompt and answer, which knows of no cache."""
    network = skip(build("proposed", depth=3, context=32), attention=left_out)
    prompt = torch.randint(300, (32 - new + 1,), generator=torch.manual_seed(3))
    how = Elimination((0.6, 0.6, 0.2))
    request = Request("continuation", "eager", prompt.tolist(), new, None, 0)
    tokens = chosen_tokens(network, request, how)
    whole = torch.cat((prompt, torch.tensor(tokens)))[None, :-1]
    with torch.no_grad():
        states = continuation_features(network, whole, len(prompt), how)
        assert network.head(states).argmax(-1)[0].tolist() == tokens
        plain = network(whole)[:, len(prompt) - 1 :]
    # Not what it would say with all tokens: the elimination took place.
    assert (plain - network.head(states)).abs().max() > 1e-3


def test_a_first_token_has_the_prefill_in_it_and_no_other_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = {"now": 0}
    rooms: list[int] = []
    real = latency.prefill

    def slow(network: LlamaLM, tokens: Any, how: Elimination, room: int) -> Any:
        clock["now"] += 1000
        rooms.append(room)
        return real(network, tokens, how, room)

    monkeypatch.setattr(latency, "prefill", slow)
    monkeypatch.setattr(latency.time, "perf_counter_ns", lambda: clock["now"])
    network = build(depth=3)
    subject = Subject("x-3", 0, "trained", "study", network, elimination=HOW)
    request = Request("continuation", "eager", [*range(3, 23)], 4, None, 0)
    assert latency.time_subject(subject, request) == [1000, 0, 0, 0]
    assert rooms == [3]
    plain = replace(subject, elimination=None)
    assert latency.time_subject(plain, request) == [0] * 4


def test_a_prompt_may_fill_the_context() -> None:
    """The first token is read off the prompt; there is none to store behind it."""
    network, seen = build(context=16), []
    real = latency.KeyValueCache

    class Noted(real):
        def __init__(self, *what: Any) -> None:
            seen.append(what[2])
            super().__init__(*what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "KeyValueCache", Noted)
        requests = latency.fixed_requests(
            {"prompt_tokens": 16, "new_tokens": 1, "repeats": 2}, "eager", "prompt_16"
        )
        subject = Subject("baseline-2", 0, "trained", "study", network)
        settings = {"warmups": 3}
        rows = latency.interleave([subject], requests, settings, random.Random(0))
    assert seen == [16] * 5
    assert [row["token_index"] for row in rows] == [0, 0]


# --- rows ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(place: Path) -> pd.DataFrame:
    job, order = make_job(place), random.Random(0)
    found = latency.time_front(job, 0, order, CPU)
    found += latency.time_paper_scale(job, order, CPU)
    return pd.DataFrame(found).assign(session=0, neighbours=0.0)


def test_every_model_of_the_front_is_in_every_repeat(rows: pd.DataFrame) -> None:
    part = rows[rows["workload"] == "continuation"]
    sizes = part.groupby(["model", "repeat"])["token_index"].apply(tuple)
    assert set(sizes) == {(0, 1, 2)}
    assert len(sizes) == 4 * (len(FRONT) + 1)
    assert set(part["model"]) == {*FRONT, "baseline-3" + TWIN}
    assert set(part["prompt_tokens"]) == {36}
    assert set(part["generated_tokens"]) == {3}
    assert set(zip(part["scale"], part["mode"], strict=True)) == {("study", "eager")}
    assert (part.groupby("model")["form"].nunique() == 1).all()
    assert not {"network", "elimination", "decoder"} & {*rows}
    # Interleaved: no model's four repeats come in a row.
    assert list(part["model"][:12:3]) != [part["model"].iloc[0]] * 4


def test_first_tokens_by_the_prompts_length(rows: pd.DataFrame) -> None:
    over = [arm for arm in ENTRIES if arm.startswith("baseline-3")]
    paper = [
        "baseline-2__skip=attention.latter.1",
        "baseline-2__skip=block.latter.2",
        "baseline-2__eliminate=linear.1.25",
    ]
    for scale, lengths, models in (
        ("study", [12, 48], ["baseline-3", *over]),
        ("paper", [16, 32], ["baseline-2", *paper]),
    ):
        part = rows[(rows["scale"] == scale) & rows["workload"].str.startswith("pr")]
        assert set(part["workload"]) == {f"prompt_{n}" for n in lengths}
        lengths_said = part["workload"].str.removeprefix("prompt_").astype(int)
        assert (part["prompt_tokens"] == lengths_said).all()
        assert set(part["token_index"]) == {0}
        assert set(part["generated_tokens"]) == {1}
        counts = part.groupby(["model", "workload"]).size()
        assert len(counts) == len(models) * len(lengths)
        assert set(counts) == {2}
        assert set(part["model"]) == set(models)
    fixed = rows[rows["workload"] == "fixed"]
    named = set(fixed["model"][fixed["model"].str.contains("__")])
    assert named == {*paper[:2], "baseline-2" + TWIN}


def test_without_the_section_nothing_is_added_at_the_papers_size(place: Path) -> None:
    job, order = make_job(place, arms=None), random.Random(0)
    front = pd.DataFrame(latency.time_front(job, 0, order, CPU))
    assert set(front["workload"]) == {"continuation"}
    paper = pd.DataFrame(latency.time_paper_scale(job, order, CPU))
    assert set(paper["workload"]) == {"fixed"}
    assert not paper["model"].str.contains("skip|eliminate").any()


def test_a_first_token_alone_gives_one_time(rows: pd.DataFrame) -> None:
    tidy = latency_rows(rows)
    by_set = tidy.groupby("dataset")["metric"].agg(set)
    for name in ("prompt_12", "prompt_16", "prompt_32", "prompt_48"):
        assert by_set[name] == {"time_to_first_token"}
    loops = {"generation_loop", "time_per_generated_token"}
    both = {"time_to_first_token", "time_per_output_token"} | loops
    assert by_set["continuation"] == both
    assert by_set["fixed"] == both | {"generated_tokens"}
    assert tidy["value"].notna().all()


def test_new_workloads_do_not_judge_sessions(rows: pd.DataFrame) -> None:
    """The A/A pair is judged where it was, by models that were there before."""
    twins = rows[rows["workload"] == "continuation"]
    study = twins.assign(workload="fixed", form="trained", nanoseconds=1000)
    draw = np.random.default_rng(0)
    noise = draw.normal(1000, 10, len(study)).round()
    fixed = pd.concat([study.assign(nanoseconds=noise), rows])
    fixed = fixed[~fixed["model"].str.contains("skip|eliminate")]
    before = sessions.judge(fixed[fixed["workload"] == "fixed"])
    extra = rows[rows["workload"] != "fixed"].copy()
    extra["nanoseconds"] *= draw.uniform(1, 9, len(extra))
    arms = rows[rows["model"].str.contains("skip|eliminate")]
    after = sessions.judge(pd.concat([fixed, extra, arms]))
    assert set(before["scale"]) == {"study", "paper"}
    pd.testing.assert_frame_equal(before, after)


# --- by arithmetic ------------------------------------------------------------------


def test_keys_and_values_are_of_blocks_that_attend() -> None:
    assert attending("baseline-8") == 8
    assert attending("baseline-8__skip=attention.latter.2") == 6
    assert attending("baseline-8__skip=ffn.latter.2") == 8
    assert attending("proposed-8__tuned=0.1__skip=block.early.3__healed=0.1") == 5
    row = {"form": "trained", "parameters_trained": 1200, "workload": "decode"}
    row |= {"prompt_tokens": 6, "generated_tokens": 4, "dtype": "float32"}
    row |= {"model": "baseline-8__skip=attention.latter.2", "depth": 8}
    # Width 10, 20 words: the cache of 10 tokens is 2 * 6 * 10 numbers for each.
    found = bytes_per_token(row, {"width": 10, "vocabulary": 20})
    assert found == 4 * (1000 + 2 * 6 * 10 * 10)


def test_parameters_of_arms() -> None:
    """Of all at the study's size, and at the paper's of those that are smaller."""
    sizes = asdict(tiny(depth=3)) | {"ffn": {}, "skip": {}}
    specs = {
        "baseline-3": {"model": sizes},
        "baseline-3__skip=block.latter.1": {
            "model": sizes | {"skip": {"attention": [2], "ffn": [2]}}
        },
    }
    paper = paper_scale(PaperScale(depths=[5, 8]), [], Arms(**LENGTHS))
    table = count(specs, paper)
    whole, less = table.loc[table["scale"] == "study", "parameters_trained"]
    assert whole - less == 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32
    of_paper = table[table["scale"] == "paper"].set_index("model")
    assert [m for m in of_paper.index if "__" in m] == [
        f"baseline-8__skip={text}" for text in LENGTHS["skips"]
    ]
    sizes_of = of_paper["parameters_trained"]
    attention = sizes_of["baseline-8__skip=attention.latter.1"]
    assert sizes_of["baseline-8"] - attention == 4 * 1024**2 + 1024
    assert set(of_paper.loc[of_paper.index.str.contains("__"), "system"]) == {"S3"}
    assert "128,789,504" in table_1(table)


def test_the_configuration_says_which_seeds_arms_have(configuration: dict) -> None:
    changed = copy.deepcopy(configuration)
    for grid in changed["experiments"]["skip"]:
        grid["seeds"] = [1, 2]
    changed["experiments"]["elimination"] = changed["experiments"]["combined"] = []
    timed = load_study(changed).timed
    arms = [name for name in timed["front"] if name in timed["arms"]]
    assert arms
    assert {tuple(timed["seeds"][arm]) for arm in arms} == {(1, 2)}
    assert timed["seeds"]["baseline-8"] == [0, 1, 2]
    names = list(timed["paper"]["arms"])
    assert names[0] == "baseline-8__skip=attention.latter.2"
    assert names[-1] == "baseline-8__eliminate=linear.2.9"
    changed["latency"]["arms"] = None
    assert load_study(changed).timed["paper"]["arms"] == {}
