"""Benchmark cases: trained models of a study, untrained ones of the original's size."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from shallower.errors import UserError
from shallower.evaluation.latency.decode_modes import Decoder
from shallower.evaluation.sizes import deepest_baseline, original_interventions
from shallower.files import read_json
from shallower.interventions.apply import apply
from shallower.interventions.base import Choice
from shallower.interventions.eliminate import Elimination
from shallower.models.config import FFNVariant, HeadVariant, LlamaConfig
from shallower.models.families import on_meta
from shallower.models.initial import STD, initialise
from shallower.models.llama import LlamaLM, rotary_table
from shallower.models.transforms import (
    adopt,
    deploy,
    deployed_form,
    first_blocks,
    fold,
)
from shallower.pretrained.checkpoint import open_model
from shallower.study.names import ModelName, twin
from shallower.study.runs import (
    LatencySpec,
    OriginalSpec,
    TimedCheckpoint,
    TimedModel,
)
from shallower.training.runs import load_decoder

BEYOND_CACHES = 2**28  # bytes of a model that leaves nothing of itself in any cache
VARIANTS = ("baseline", "proposed")  # that the original compares


@dataclass(frozen=True)
class Case:
    """One model as it is timed."""

    model: str  # label without the intervention; of an A/A pair, the twin's
    seed: int
    form: str  # trained | folded | collapsed
    scale: str  # study | original | pretrained
    network: LlamaLM
    intervention: str = ""
    decoder: Decoder | None = None  # without, the model's own cached path
    elimination: Elimination | None = None  # of the prompt's tokens, in the prefill


@dataclass(frozen=True)
class Job:
    """What a session needs; plain data, since it goes to another process."""

    spec: LatencySpec
    runs: Path  # folder of all runs
    evaluations: Path  # and of their evaluations: what each intervention chose
    corpus: Path
    tokenizer: Path
    threads: int
    device: str

    def models(self, workload: str) -> list[TimedModel]:
        """The models that are timed with a workload: all, fixed or front."""
        return [model for model in self.spec.models if workload in model.workloads]

    def config(self, model: TimedModel) -> LlamaConfig:
        """Sizes of the run that a model is or comes from."""
        config = self.spec.specs[model.run].model
        if not isinstance(config, LlamaConfig):
            raise UserError(f"{model.label}: only decoders are timed")
        return config

    @property
    def deepest(self) -> TimedModel:
        """The deepest baseline of the depth experiment: one half of the A/A pair."""
        baselines = [
            model
            for model in self.models("all")
            if model.label == plain("baseline", self.config(model).depth)
        ]
        return max(baselines, key=lambda model: self.config(model).depth)


def plain(variant: str, depth: int) -> str:
    """The label of the model of a variant that differs in nothing else."""
    return str(ModelName(variant, depth))


def seed_of(model: TimedModel, session: int) -> int:
    """The seed whose run a session takes: each of the model's in turn."""
    return model.seeds[session % len(model.seeds)]


# --- the study's own models -----------------------------------------------------------


def study_cases(
    job: Job, session: int, device: torch.device
) -> tuple[list[Case], list[Case]]:
    """The depth experiment's models with an A/A twin, and those with other FFNs."""
    # Every case is loaded by itself and shares no memory with another: at this size
    # shared weights would be in the cache already for the case that comes second.
    depth, others = (
        [
            case
            for model in job.models(workload)
            for case in forms(job, model, session, device)
        ]
        for workload in ("all", "fixed")
    )
    second = forms(job, job.deepest, session, device)[0]
    depth.append(replace(second, model=twin(second.model)))
    return depth, others


def forms(
    job: Job, model: TimedModel, session: int, device: torch.device
) -> list[Case]:
    """A run as trained and, where that is another model, as it is deployed."""
    seed = seed_of(model, session)

    def load() -> LlamaLM:
        return load_decoder(job.runs / model.run / f"seed{seed}").to(device)

    network = load()
    cases = [Case(model.label, seed, "trained", "study", network)]
    form = deployed_form(network.config)
    if form != "trained":
        cases.append(Case(model.label, seed, form, "study", deploy(load())))
    return cases


def front_cases(job: Job, session: int, device: torch.device) -> list[Case]:
    """Models of the quality-latency plot as deployed, and a twin of the A/A pair."""
    models = job.models("front")
    if not models:
        return []
    second = job.deepest
    models.append(second.model_copy(update={"label": twin(second.label)}))
    # Runs are read once, with all that is made of them.
    members: dict[tuple[str, int], list[TimedModel]] = {}
    for model in models:
        members.setdefault((model.run, seed_of(model, session)), []).append(model)
    cases = {}
    for (run, seed), timed in members.items():
        network = load_decoder(job.runs / run / f"seed{seed}").to(device)
        for model in timed:
            choice = Choice()
            if model.intervention:
                choice = read_choice(job.evaluations, run, seed, model.intervention)
            cases[model.label] = deployed_case(model, seed, network, choice)
    return [cases[model.label] for model in models]


def checkpoint_cases(
    job: Job, timed: TimedCheckpoint, device: torch.device
) -> list[Case]:
    """A checkpoint in fp32, its A/A twin, and the interventions on it.

    All share the weights, which leave nothing in a cache for the next model.
    """
    path = timed.checkpoint.checked_path(f"pretrained.models.{timed.name}")
    network = open_model(path, timed.context).to(device)
    plain = Case(timed.name, 0, "trained", "pretrained", network)
    cases = [plain, replace(plain, model=twin(timed.name))]
    for text in timed.interventions:
        choice = read_choice(job.evaluations, timed.name, 0, text)
        cases.append(
            replace(
                plain,
                intervention=text,
                network=apply(network, choice),
                elimination=choice.elimination,
            )
        )
    return cases


def read_choice(evaluations: Path, run: str, seed: int, intervention: str) -> Choice:
    """What an intervention chose for a run when it was scored."""
    path = evaluations / run / f"seed{seed}.interventions.json"
    entries = read_json(path)["interventions"]
    if intervention not in entries:
        raise UserError(f"{path}: no intervention {intervention!r}")
    return Choice.from_json(entries[intervention])


def deployed_case(
    model: TimedModel, seed: int, network: LlamaLM, choice: Choice
) -> Case:
    """A run's model under an intervention, deployed, with weights of its own.

    Models that no cache holds share their run's: a study of that size has dozens.
    """
    reduced = apply(network, choice)
    form, reduced = deployed_form(reduced.config), deploy(reduced)
    if sum(parameter.nbytes for parameter in reduced.parameters()) < BEYOND_CACHES:
        reduced = copy.deepcopy(reduced)
    return Case(
        model.run if model.intervention else model.label,
        seed,
        form,
        "study",
        reduced,
        intervention=model.intervention,
        elimination=choice.elimination,
    )


# --- the original's size --------------------------------------------------------------


def original_cases(
    spec: OriginalSpec, device: torch.device
) -> tuple[list[Case], list[Case]]:
    """Untrained models of Table 1's size, and the deepest with other FFNs.

    They share blocks, those of the deepest: speed does not depend on the weights'
    values, and models of 500 MB and more leave nothing in a cache for the next one.
    """
    config = replace(spec.model, head=spec.heads["proposed"])
    # Drawn where it is used: at this size it would not fit the memory twice.
    full = initialise(on_meta(config).to_empty(device=device), seed=0).eval()
    full.rotary = rotary_table(config, device)
    cases = []
    for depth in spec.depths:
        network = first_blocks(full, depth, HeadVariant())
        label = plain("baseline", depth)
        cases.append(Case(label, 0, "trained", "original", network))
        if depth == config.depth:
            cases.append(replace(cases[-1], model=twin(label)))
    folded = fold(full)
    for depth in spec.depths:
        label = plain("proposed", depth)
        for form, whole in (("trained", full), ("folded", folded)):
            network = first_blocks(whole, depth, whole.config.head)
            cases.append(Case(label, 0, form, "original", network))
    others = [
        case for name, ffn in spec.ffns.items() for case in other_ffns(full, name, ffn)
    ]
    return cases, others


def intervened_cases(spec: OriginalSpec, cases: list[Case]) -> tuple[Case, list[Case]]:
    """The deepest baseline among `cases`, and the interventions on it."""
    label = deepest_baseline(spec)
    baseline = next(case for case in cases if case.model == label)
    intervened = [
        replace(
            baseline,
            intervention=str(intervention),
            network=apply(baseline.network, choice),
            elimination=choice.elimination,
        )
        for intervention, choice in original_interventions(spec)
    ]
    return baseline, intervened


def other_ffns(full: LlamaLM, name: str, ffn: FFNVariant) -> Iterator[Case]:
    """The deepest baseline of the original's size with another FFN, as deployed too.

    What a chain collapses to is one matrix: its values do not matter for its speed.
    """
    label = plain(name, full.config.depth)
    yield Case(label, 0, "trained", "original", with_ffn(full, ffn))
    if ffn.collapses:
        single = with_ffn(full, replace(ffn, matrices=1))
        yield Case(label, 0, "collapsed", "original", single)


def with_ffn(model: LlamaLM, ffn: FFNVariant) -> LlamaLM:
    """The baseline that shares all but its FFN, which is drawn, with `model`."""
    empty = on_meta(replace(model.config, head=HeadVariant(), ffn=ffn))
    state, weight = model.state_dict(), model.embedding.weight
    for name, parameter in empty.state_dict().items():
        if name not in state:
            state[name] = torch.randn(parameter.shape, device=weight.device) * STD
    return adopt(empty, {name: state[name] for name in empty.state_dict()}, model)


def extremes(cases: list[Case]) -> list[Case]:
    """The shallowest and the deepest plain baseline and proposed models, no twins."""

    def depth(case: Case) -> int:
        return case.network.config.depth

    chosen = [
        case
        for case in cases
        if case.model in [plain(variant, depth(case)) for variant in VARIANTS]
    ]
    ends = (min(map(depth, chosen)), max(map(depth, chosen)))
    return [case for case in chosen if depth(case) in ends]
