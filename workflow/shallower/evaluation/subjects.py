"""Who is timed: trained models of a study, and untrained ones of the paper's size."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from shallower.evaluation.static_decode import Decoder
from shallower.files import read_json
from shallower.models.arms import arm_network
from shallower.models.counting import on_meta
from shallower.models.initial import STD, initialise
from shallower.models.llama import BASELINE, LlamaConfig, LlamaLM, rotary_table
from shallower.models.retention import Elimination
from shallower.models.transforms import (
    adopt,
    deploy,
    deployed_form,
    first_blocks,
    fold,
)
from shallower.models.variants import TWIN, FFNVariant
from shallower.names import split_name
from shallower.training.runs import load_run

Subjects = list["Subject"]
BEYOND_CACHES = 2**28  # bytes of a model that leaves nothing of itself in any cache


@dataclass(frozen=True)
class Subject:
    """One model as it is timed."""

    model: str
    seed: int
    form: str  # trained | folded | collapsed
    scale: str  # study | paper
    network: LlamaLM
    decoder: Decoder | None = None  # without, the model's own cached path
    elimination: Elimination | None = None  # of the prompt's tokens, in the prefill


@dataclass(frozen=True)
class Job:
    """Everything a session needs; plain values, since it crosses processes."""

    models: list[str]  # timed in every way
    others: list[str]  # timed with fixed lengths alone
    front: list[str]  # runs and arms, timed behind a prompt of `prompt_tokens`
    arms: dict[str, str]  # arm -> the run that it stands over
    seeds: dict[str, list[int]]  # of every model
    specs: dict[str, dict[str, Any]]  # model -> specification of a run
    runs: str
    evaluations: str  # here arms are described, by run and seed
    corpus: str
    tokenizer: str
    settings: dict[str, Any]  # the configuration's `latency` section
    new_tokens: int  # of the evaluation sets
    prompt_tokens: int  # of the front
    paper: dict[str, Any]  # sizes, variants and arms, from `wanted.paper_scale`
    threads: int
    device: str


def study_subjects(
    job: Job, session: int, device: torch.device
) -> tuple[Subjects, Subjects]:
    """The depth experiment's models with an A/A twin, and the others."""
    # Every subject is loaded by itself and shares no memory with another: at this
    # size shared weights would be in the cache already for whoever comes second.
    subjects = [s for name in job.models for s in forms(job, name, session, device)]
    others = [s for name in job.others for s in forms(job, name, session, device)]
    deepest = deepest_baseline(job)
    twin = forms(job, deepest, session, device)[0]
    subjects.append(replace(twin, model=deepest + TWIN))
    return subjects, others


def forms(job: Job, name: str, session: int, device: torch.device) -> list[Subject]:
    """A model as trained and, where that is another one, as it is deployed.

    A session takes the run of one of its seeds, in turn.
    """
    seed = seed_of(job, name, session)

    def load() -> LlamaLM:
        return load_run(f"{job.runs}/{name}/seed{seed}").to(device)

    network = load()
    found = [Subject(name, seed, "trained", "study", network)]
    form = deployed_form(network.config)
    if form != "trained":
        found.append(Subject(name, seed, form, "study", deploy(load())))
    return found


def front_subjects(job: Job, session: int, device: torch.device) -> Subjects:
    """Runs and arms of the front as deployed, with an A/A twin of the deepest baseline.

    An arm is made of the run of one of its seeds: in each session of another, in turn.
    """
    names = list(job.front)
    if job.front:
        names.append(deepest_baseline(job) + TWIN)
    # Runs are read once, with all that is made of them.
    sources: dict[tuple[str, int], list[str]] = {}
    for name in names:
        single = name.removesuffix(TWIN)
        source = (job.arms.get(single, single), seed_of(job, single, session))
        sources.setdefault(source, []).append(name)
    found = {}
    for (run, seed), members in sources.items():
        network = load_run(f"{job.runs}/{run}/seed{seed}").to(device)
        entries = read_arms(job, run, seed) if {*members} & {*job.arms} else {}
        for name in members:
            entry = entries[name] if name in job.arms else NO_ARM
            found[name] = deployed_arm(name, seed, network, entry)
    return [found[name] for name in names]


NO_ARM: dict[str, Any] = {"skip": {}, "elimination": None}  # the run itself


def read_arms(job: Job, run: str, seed: int) -> dict[str, dict[str, Any]]:
    """The entries of all arms over a run, by name."""
    path = Path(job.evaluations) / run / f"seed{seed}.arms.json"
    return dict(read_json(path)["arms"])


def deployed_arm(
    name: str, seed: int, network: LlamaLM, entry: dict[str, Any]
) -> Subject:
    """What `entry` makes of a run's model, deployed, with weights of its own.

    A model that no cache holds shares its run's: a study of that size has dozens.
    """
    reduced, elimination = arm_network(network, entry)
    form, reduced = deployed_form(reduced.config), deploy(reduced)
    if sum(parameter.nbytes for parameter in reduced.parameters()) < BEYOND_CACHES:
        reduced = copy.deepcopy(reduced)
    return Subject(name, seed, form, "study", reduced, elimination=elimination)


def seed_of(job: Job, name: str, session: int) -> int:
    """The seed whose run a session takes: of those there are, in turn."""
    seeds = job.seeds.get(name) or job.seeds[job.arms[name]]
    return seeds[session % len(seeds)]


def deepest_baseline(job: Job) -> str:
    """The deepest baseline of the depth experiment: one half of the A/A pair."""
    return max(job.models, key=_depth_of_baseline)


def paper_subjects(
    paper: dict[str, Any], device: torch.device
) -> tuple[Subjects, Subjects]:
    """Untrained models of Table 1's size, and the deepest with other FFNs.

    They share blocks, those of the deepest: speed does not depend on what the weights
    are, and models of 500 MB and more leave nothing in a cache for the next one.
    """
    apart = ("depths", "variants", "ffns", "arms")
    sizes = {k: v for k, v in paper.items() if k not in apart}
    deepest = max(paper["depths"])
    sizes |= {"depth": deepest, "head": paper["variants"]["proposed"]}
    config = LlamaConfig.parse(sizes)
    # From the meta device, so that 170 million numbers are not drawn twice.
    whole = initialise(on_meta(config).to_empty(device=device), seed=0).eval()
    whole.rotary = rotary_table(config, device)
    subjects = []
    for depth in paper["depths"]:
        baseline = first_blocks(whole, depth, BASELINE)
        subjects.append(Subject(f"baseline-{depth}", 0, "trained", "paper", baseline))
        if depth == deepest:
            twin = replace(subjects[-1], model=f"baseline-{depth}{TWIN}")
            subjects.append(twin)
    folded = fold(whole)
    for depth in paper["depths"]:
        for form, network in (("trained", whole), ("folded", folded)):
            part = first_blocks(network, depth, network.config.head)
            subjects.append(Subject(f"proposed-{depth}", 0, form, "paper", part))
    others = [
        subject
        for name, ffn in paper["ffns"].items()
        for subject in other_ffns(whole, name, FFNVariant(**ffn))
    ]
    return subjects, others


def paper_arms(paper: dict[str, Any], subjects: Subjects) -> tuple[Subject, Subjects]:
    """The deepest baseline among `subjects`, and the arms over it, of its blocks."""
    name = f"baseline-{max(paper['depths'])}"
    whole = next(subject for subject in subjects if subject.model == name)
    arms = []
    for arm, entry in paper["arms"].items():
        network, elimination = arm_network(whole.network, entry)
        changes = {"model": arm, "network": network, "elimination": elimination}
        arms.append(replace(whole, **changes))
    return whole, arms


def other_ffns(whole: LlamaLM, name: str, ffn: FFNVariant) -> Iterator[Subject]:
    """The deepest baseline of the paper's size with another FFN, as it is deployed too.

    What a chain collapses to is one matrix: which one does not matter for its speed.
    """
    label = f"{name}-{whole.config.depth}"
    yield Subject(label, 0, "trained", "paper", with_ffn(whole, ffn))
    if ffn.collapses:
        single = with_ffn(whole, replace(ffn, matrices=1))
        yield Subject(label, 0, "collapsed", "paper", single)


def with_ffn(model: LlamaLM, ffn: FFNVariant) -> LlamaLM:
    """The baseline that shares all but its FFN, which is drawn, with `model`."""
    empty = on_meta(replace(model.config, head=BASELINE, ffn=ffn))
    state, weight = model.state_dict(), model.embedding.weight
    for name, parameter in empty.state_dict().items():
        if name not in state:
            state[name] = torch.randn(parameter.shape, device=weight.device) * STD
    return adopt(empty, {name: state[name] for name in empty.state_dict()}, model)


def extremes(subjects: list[Subject]) -> list[Subject]:
    """The shallowest and the deepest models of the paper's two variants, no twins."""
    named = {}
    for subject in subjects:
        variant, _, depth = subject.model.rpartition("-")
        if variant in ("baseline", "proposed") and depth.isdigit():
            named[subject.model, subject.form] = (int(depth), subject)
    depths = [depth for depth, _ in named.values()]
    ends = (min(depths), max(depths))
    return [subject for depth, subject in named.values() if depth in ends]


def _depth_of_baseline(name: str) -> int:
    """Sort key: the deepest baseline is the A/A pair."""
    variant, depth, _ = split_name(name)
    return depth if variant == "baseline" else -1
