import gc
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError

from shallower import running, terminal
from shallower.code import CHECKOUT
from shallower.cores import usable_cores, visible_cores
from shallower.corpus import EVALUATION_SETS, downloaded
from shallower.errors import UserError
from shallower.files import check_programs_run
from shallower.reporting import outputs
from shallower.reporting.contents import ANALYSIS_TABLES, FIGURES, TABLES
from shallower.study import configuration
from shallower.study.inputs import Inputs
from shallower.study.local_files import local_files
from shallower.study.overlays import check_file
from shallower.study.study import load_study

# A large study's graph is millions of objects that stay: looking through all of them
# for garbage every few thousand new ones takes an eighth of a dry run.
gc.set_threshold(200_000, 50, 100)

NAMED = 10  # damaged files that are named

# A copied checkout's environment runs the code of the original.
if CHECKOUT != Path(workflow.basedir).resolve():
    raise WorkflowError(
        f"{workflow.basedir}: its Python runs the code of {CHECKOUT}, not its own: "
        "run `make setup` here, and Snakemake from .venv/bin"
    )

# Snakemake counts the cores that it sees, and knows of no quota. On a cluster the jobs
# have other cores than this process.
if workflow.nodes is None and usable_cores() < visible_cores():
    workflow.global_resources["_cores"] = min(usable_cores(), workflow._cores or 1)

try:
    for path in workflow.configfiles:
        check_file(Path(path))
    # `make paper training.steps=50` is `--config overrides=training.steps=50`.
    configuration.apply(config)
    study = load_study(config)
    if study.compiles and not workflow.remote_exec:
        check_programs_run(Path(tempfile.gettempdir()))
    downloaded.check(study.corpus)
    for _, each in study.pretrained.downloads.values():
        downloaded.check_checkpoint(each.repository, each.file, each.revision)
    LOCAL_FILES = local_files(study)
    # The tokenizer's file, if the study takes it from the hub.
    HUB_FILE = study.tokenizer.hub
    if HUB_FILE is not None:
        downloaded.check_file(HUB_FILE.repository, HUB_FILE.file, HUB_FILE.revision)
except UserError as error:
    raise WorkflowError(str(error)) from None

# The terminal shows how far it is.
terminal.describe(study)


def make_again():
    """Name results that were edited, damaged or deleted, and have them made again.

    Snakemake itself looks at times alone: it would take in what somebody edited, and
    miss nothing that is deleted as long as the paper is there.
    """
    settings = workflow.dag_settings
    if "verify" in settings.targets:
        return
    found = outputs.damaged(study, INPUTS.directory)
    if settings.targets:
        found = {path: what for path, what in found.items() if what != "missing"}
    for path, what in list(found.items())[:NAMED]:
        print(f"made again: {path}: {what}", file=sys.stderr)
    if len(found) > NAMED:
        print(f"made again: {len(found) - NAMED} other files", file=sys.stderr)
    settings.forcerun = {*settings.forcerun, *found}


# What every stage is told, in files that change when their content does.
INPUTS = Inputs(study)
WITHIN_JOB = workflow.remote_exec or workflow.subprocess_exec
LOCKED = running.StudyLock(INPUTS.directory)
READ_AT = time.time()
if not WITHIN_JOB:
    try:
        if LOCKED.take():
            INPUTS.write()
        elif INPUTS.differ():
            # A dry run with other settings would change those of the running jobs.
            raise WorkflowError(LOCKED.refusal())
    except (OSError, UserError) as error:  # read-only, or full
        raise WorkflowError(str(error)) from None
    for reason in INPUTS.reasons():
        print(f"rerun: {reason}", file=sys.stderr)
    # Snakemake says only after it has read this file what it was asked for.
    prepare = workflow._prepare_dag

    def prepare_with_damaged(*arguments, **options):
        make_again()
        return prepare(*arguments, **options)

    workflow._prepare_dag = prepare_with_damaged

# Every data set of the hub that the study reads, by the name of its folder.
HUB = downloaded.hub_sources(study.corpus)
# Data sets that are scored, and the split of the text that they come from.
HELD_OUT = {
    "text": "test",
    "continuation": "test",
    "validation": "validation",
    "spans": "test",
}
SUMMARISED_SETS = [
    *("train", "text", "continuation", "validation", "spans", "pairs"),
    *EVALUATION_SETS,
    *("fixed", "decode", "step"),
]


onstart:
    # not in a dry run
    if not WITHIN_JOB:
        held = LOCKED.is_held
        if not LOCKED.take(running.PATIENCE):
            raise WorkflowError(LOCKED.refusal())
        if not held and running.written_since(INPUTS.directory, READ_AT):
            raise WorkflowError(f"{INPUTS.directory}: {running.JUST_ENDED}")
        if workflow.local_exec:  # a cluster's jobs go on without Snakemake
            running.jobs_end_with_this_process()


onerror:
    # nor after Ctrl-C in a dry run
    if not WITHIN_JOB and not workflow.local_exec:
        running.cancel_slurm_jobs(
            getattr(workflow.scheduler._executor, "run_uuid", None)
        )


pathvars:
    results=f"results/{study.study}",
    logs=f"results/{study.study}/logs",


# Data, summaries, figures and paper take seconds or need the internet: on a cluster
# they run where Snakemake runs.
localrules:
    corpus,
    pairs,
    shards,
    floors,
    parameters,
    summary,
    estimates,
    figures,
    tables,
    typeset,
    paper,
    provenance,
    verify,
    notebook_training,
    notebook_comparison,
    notebook_claim,
    page,
    archive,


# Names of checkpoints, which no run has.
CHECKPOINTS = "|".join(map(re.escape, study.pretrained.chosen)) or "(?!)"


wildcard_constraints:
    model=f"(?!(?:{CHECKPOINTS})/)[^/]+",
    checkpoint=CHECKPOINTS,
    seed=r"\d+",
    split="train|validation|test",
    part=r"\d+",


def run_of(wildcards):
    """Model and seed of a run, if the study has that model."""
    if wildcards.model not in study.models:
        raise WorkflowError(f"no such model in study {study.study}: {wildcards.model}")
    return wildcards.model, int(wildcards.seed)


def code_of(stage):
    """The file with the digests of the code that a run's stage depends on."""
    return lambda wildcards: str(INPUTS.code_file(stage, run_of(wildcards)[0]))


def run_folder(model, seed):
    """Where a run's files are."""
    return f"results/{study.study}/runs/{model}/seed{seed}"


def own_files(stage):
    """The list of the user's own files that a stage reads, if it reads any.

    Not the files: their names may hold braces and whatever else Snakemake reads.
    """
    return [str(INPUTS.files_file(stage))] if stage in LOCAL_FILES else []


def hub_manifests(of_pairs=False):
    """The manifest of every download that the corpus, or the pairs, are built from."""
    return [
        str(downloaded.FOLDER / name / downloaded.MANIFEST)
        for name, wanted in HUB.items()
        if (wanted.kind == "pairs") == of_pairs
    ]


def downloaded_tokenizer():
    """The tokenizer's file of the hub, if the study takes it from there.

    A package's is pinned by version and checksum; a local one is the study's own file.
    """
    if not HUB_FILE:
        return []
    return str(
        downloaded.file_path(HUB_FILE.repository, HUB_FILE.file, HUB_FILE.revision)
    )


def checkpoint_file(wildcards):
    """What tells whether a checkpoint is another one: the manifest of a downloaded one.

    A package's is pinned by version and checksum.
    """
    chosen = study.pretrained.chosen[wildcards.checkpoint]
    if chosen.source == "hub":
        return str(downloaded.FOLDER / chosen.folder / downloaded.MANIFEST)
    return own_files(f"checkpoint-{wildcards.checkpoint}")


def checkpoint_memory(wildcards):
    """Megabytes of the host that scoring a checkpoint takes."""
    return max(8000, study.pretrained.chosen[wildcards.checkpoint].host_megabytes())


def latency_memory():
    """Megabytes of the host that the latency job takes; it loads checkpoints in fp32."""
    chosen = study.pretrained.chosen if study.latency.pretrained else {}
    sizes = [each.host_megabytes("float32") for each in chosen.values()]
    return max([16000, *sizes])


def other_runs(wildcards):
    """Folders of the runs that a run depends on, by the option that names them."""
    model, seed = run_of(wildcards)
    spec = study.spec(model, seed)
    labels = {"parent": spec.parent}
    if spec.distillation:
        labels["teacher"] = spec.distillation.teacher
    return {key: run_folder(label, seed) for key, label in labels.items() if label}


def training_files(wildcards):
    """What a run is trained on beside the text, and the runs it depends on."""
    files = {
        option: f"{folder}/model.safetensors"
        for option, folder in other_runs(wildcards).items()
    }
    if study.spec(*run_of(wildcards)).task == "pairs":
        files["pairs"] = "<results>/corpus/pairs/train.parquet"
        files["tokenizer"] = "<results>/tokens/tokenizer.model"
    return files


def ended_at_runtime(wildcards, output):
    """1 within a cluster's job, which ends at its runtime; on one's own machine 0.

    Made with the help of `output`, so that it is not compared: to Snakemake within a job
    the runs that the job's own depends on would seem to have been trained otherwise,
    and it would train them again.
    """
    return int(workflow.remote_exec)


def training_options(wildcards, input):
    """The same as the command line has it."""
    options = other_runs(wildcards)
    for option in ("pairs", "tokenizer"):
        if option in input.keys():
            options[option] = input[option]
    return "".join(f" --{option} {path}" for option, path in options.items())


def all_cores(wildcards):
    """As many threads as the run has: a job that is to have the machine to itself."""
    return workflow.cores or 1


def scored_files(wildcards):
    """The data that one run is scored on, and no other."""
    run = run_of(wildcards)
    scored_on = study.scored_on(*run)
    splits = [HELD_OUT[name] for name in scored_on if name in HELD_OUT]
    sets = [name for name in scored_on if name in (*EVALUATION_SETS, "pairs")]
    if run in set(study.intervened_runs):
        # Choices are made on validation text, and scored on test text.
        splits += ["test", "validation"]
        sets += study.evaluation.intervention_sets
    splits = list(dict.fromkeys(splits))
    return {
        "text": [f"<results>/corpus/text/{split}.parquet" for split in splits],
        "tokens": [f"<results>/tokens/text/{split}/manifest.json" for split in splits],
        "sets": [
            f"<results>/corpus/{name}/test.parquet" for name in dict.fromkeys(sets)
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
    """The pattern's file of each of these runs.

    A function, as Snakemake compares a plain list with itself for each of its files.
    """

    def files(wildcards):
        return [pattern.format(model=model, seed=seed) for model, seed in runs]

    return files


def of_every_run(pattern):
    """The pattern's file of every run of the study."""
    return of_runs(pattern, study.runs)


def timed_runs():
    """Every run whose weights the latency job loads."""
    labels = [*study.depth_models, *study.models_of("ffn"), *study.front]
    models = dict.fromkeys(str(study.names[label].run) for label in labels)
    return [(model, seed) for model in models for seed in study.seeds_of(model)]


CORPUS = f"results/{study.study}/corpus"
TOKENS = f"results/{study.study}/tokens/text"
