import gc
import hashlib
import json
from glob import glob
from pathlib import Path

from snakemake.exceptions import WorkflowError

from shallower.config import load_study
from shallower.corpus import EVALUATION_SETS, downloaded
from shallower.digest import code_digest
from shallower.errors import UserError
from shallower.reporting.contents import FIGURES, TABLES
from shallower.wanted import arms_rule

# A large study's graph is millions of objects that stay: looking through all of them
# for garbage every few thousand new ones takes an eighth of a dry run.
gc.set_threshold(200_000, 50, 100)

try:
    study = load_study(config)
    downloaded.check(study.corpus)
    # The tokenizer's file, if the study takes it from the hub.
    HUB_FILE = study.tokenizer.hub
    if HUB_FILE is not None:
        downloaded.check_file(HUB_FILE.repository, HUB_FILE.file, HUB_FILE.revision)
except UserError as error:
    raise WorkflowError(str(error)) from None

# Every data set of the hub that the study reads, by the name of its folder.
HUB = downloaded.hub_sources(study.corpus)
HELD_OUT = {
    "text": "test",
    "continuation": "test",
    "validation": "validation",
    "spans": "test",
}  # -> split
SUMMARISED_SETS = [
    "train",
    "text",
    "continuation",
    "validation",
    "spans",
    "pairs",
    *EVALUATION_SETS,
    "fixed",
    "decode",
    "step",
]


# What the front is written to, beside pareto.csv.
FRONT_TABLES = [
    *("gains", "dominance", "additivity", "hypervolume"),
    *("methods", "profiles", "arms"),
]


pathvars:
    results=f"results/{study.study}",
    logs=f"results/{study.study}/logs",


# Data, summaries, figures and paper take seconds or need the internet: on a cluster
# they run where Snakemake runs.
localrules:
    corpus,
    pairs,
    shards,
    parameters,
    summary,
    front,
    claims,
    figures,
    tables,
    typeset,
    paper,
    provenance,
    verify,
    notebook_training,
    notebook_comparison,


wildcard_constraints:
    # Not the models' names themselves: tried one by one, for every file of every job.
    # Of runs alone: an arm has no rule of its own, it is evaluated with its run's others.
    model=r"(?![^/]*__eliminate=)(?![^/]*__skip=(?![^/]*__healed=))[^/]+",
    seed=r"\d+",
    split="train|validation|test",
    part=r"\d+",


def as_json(value):
    """Settings as they travel on the command line; Snakemake reruns when they change."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    return json.dumps(value, separators=(",", ":"))


# As the commands get it that need to know every run: a list of runs would outgrow what
# Linux allows a command line (128 KiB), the study's grids do not.
STUDY = as_json(study)


def whole_study(wildcards, output):
    """The study, for a rule that says with `depends` which part of it matters.

    Snakemake does not compare a parameter that is made with the help of `output`.
    """
    return STUDY


def depends_on(*values):
    """Digest of the values a rule's result depends on; short, however many runs."""
    return hashlib.sha256(as_json(values).encode()).hexdigest()[:16]


def named(wildcards):
    """Model and seed of a run, if the study has that model."""
    if wildcards.model not in study.models:
        raise WorkflowError(f"no such model in study {study.study}: {wildcards.model}")
    return wildcards.model, int(wildcards.seed)


def source_files():
    """Local files that the corpus is read from; a package's are pinned by version."""
    sets = [study.corpus.text, study.corpus.test]
    sets += [getattr(study.corpus, name).data for name in EVALUATION_SETS]
    patterns = [path for data in sets for path in getattr(data, "paths", [])]
    return sorted({path for p in patterns for path in glob(p, recursive=True)})


def hub_manifests(of_pairs=False):
    """The manifest of every download that the corpus, or the pairs, are built from."""
    return [
        str(downloaded.FOLDER / name / downloaded.MANIFEST)
        for name, wanted in HUB.items()
        if (wanted.kind == "pairs") == of_pairs
    ]


def tokenizer_given():
    """The tokenizer's file, if there is one: the study's own, or the hub's.

    A package's is pinned by version and checksum.
    """
    if HUB_FILE:
        return str(
            downloaded.file_path(HUB_FILE.repository, HUB_FILE.file, HUB_FILE.revision)
        )
    return study.tokenizer.model or []


def run_spec(wildcards):
    """The complete specification of one run."""
    return as_json(study.run(*named(wildcards)))


def ended_at_runtime(wildcards, output):
    """1 within a cluster's job, which ends at its runtime; on one's own machine 0.

    Made with the help of `output`, so that it is not compared: to Snakemake within a job
    the runs that the job's own depends on would seem to have been trained otherwise,
    and it would train them again.
    """
    return int(workflow.remote_exec)


def runs_needed(wildcards):
    """Folders of the runs that a run depends on, by the option that names them."""
    model, seed = named(wildcards)
    needed = {"parent": study.parent_of(model), "teacher": study.teacher_of(model)}
    return {
        option: f"results/{study.study}/runs/{name}/seed{seed}"
        for option, name in needed.items()
        if name
    }


def training_files(wildcards):
    """What a run is trained on beside the text, and the runs it depends on."""
    files = {}
    for option, folder in runs_needed(wildcards).items():
        files |= {option: f"{folder}/model.safetensors"}
        files |= {f"{option}_spec": f"{folder}/spec.yaml"}
    if study.models[wildcards.model].options.get("task") == "pairs":
        files["pairs"] = "<results>/corpus/pairs/train.parquet"
        files["tokenizer"] = "<results>/tokens/tokenizer.model"
    return files


def training_options(wildcards, input):
    """The same as the command line has it."""
    chosen = runs_needed(wildcards)
    for option in ("pairs", "tokenizer"):
        if option in input.keys():
            chosen[option] = input[option]
    return "".join(f" --{option} {path}" for option, path in chosen.items())


EVALUATION = study.evaluation.model_dump() | {"prompt_tokens": study.prompt_tokens}


def evaluation_of(wildcards):
    """What one run is scored on, and how."""
    return as_json(EVALUATION | {"scored_on": study.scored_on(*named(wildcards))})


def arms_over(run):
    """What is done to a run at inference alone: of each arm, the options that say it."""
    return {
        arm: {
            k: study.arms[arm].options[k]
            for k in ("skip", "eliminate")
            if k in study.arms[arm].options and k not in study.models[run].options
        }
        for arm in study.arms_of[run]
    }


def arm_settings(run):
    """As the command gets it: how arms are scored, and which there are."""

    def settings(wildcards):
        wanted = {
            "arms": arms_over(run),
            "seed": int(wildcards.seed),
            "window": study.tuning.window,
        }
        return as_json(EVALUATION | wanted)

    return settings


ARMS = "<results>/evaluations/{model}/seed{seed}.arms.json"  # of a run that has any


def arm_sets(wildcards):
    """The evaluation sets that arms generate text on."""
    return [
        f"<results>/corpus/{name}/test.parquet" for name in study.evaluation.arm_sets
    ]


def all_cores(wildcards):
    """As many threads as the run has: a job that is to have the machine to itself."""
    return workflow.cores or 1


def scored_files(wildcards):
    """The data that one run is scored on, and no other: see `scored_on`."""
    scored_on = study.scored_on(*named(wildcards))
    splits = [HELD_OUT[name] for name in scored_on if name in HELD_OUT]
    splits = list(dict.fromkeys(splits))
    return {
        "text": [f"<results>/corpus/text/{split}.parquet" for split in splits],
        "tokens": [f"<results>/tokens/text/{split}/manifest.json" for split in splits],
        "sets": [
            f"<results>/corpus/{name}/test.parquet"
            for name in scored_on
            if name in (*EVALUATION_SETS, "pairs")
        ],
    }


def shard_parts(split):
    """The training text is scattered over jobs; the held-out splits are small."""
    return study.shards.parts if split == "train" else 1


def shards_of(wildcards):
    """Every shard of a split."""
    return expand(
        "<results>/tokens/text/{split}/shard-{part}.bin",
        split=wildcards.split,
        part=range(shard_parts(wildcards.split)),
    )


def parts_of(wildcards):
    """Into how many shards a split is cut."""
    return shard_parts(wildcards.split)


def of_runs(pattern, runs):
    """The pattern's file of each of these (model, seed).

    A function, as Snakemake compares a plain list with itself for each of its files.
    """

    def files(wildcards):
        return [pattern.format(model=model, seed=seed) for model, seed in runs]

    return files


def of_every_run(pattern):
    """The pattern's file of every model and seed of the study."""
    return of_runs(pattern, study.runs)


CORPUS = f"results/{study.study}/corpus"
TOKENS = f"results/{study.study}/tokens/text"


def runs_folder(wildcards, input):
    """The folder that holds every run."""
    return Path(input.weights[0]).parents[2]
