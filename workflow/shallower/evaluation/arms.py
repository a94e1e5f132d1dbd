"""All inference-time arms of one run, in one process: chosen, scored and written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from shallower import machine
from shallower.errors import UserError
from shallower.evaluation.calibration import Calibration, calibrate
from shallower.evaluation.continuation import Row, continuation_rows
from shallower.evaluation.evaluate import COLUMNS, generated_rows, write_samples
from shallower.files import replacing, write_json
from shallower.models.arms import (
    Workload,
    arm_costs,
    arm_entry,
    arm_network,
    cached,
    deployed_spec,
)
from shallower.models.choices import (
    EliminationChoice,
    SkipChoice,
    parse_elimination,
    parse_skip,
)
from shallower.models.llama import LlamaLM
from shallower.models.retention import Elimination, hold, reach
from shallower.models.skipping import skip
from shallower.models.variants import Skip
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import load_run, read_spec


@dataclass(frozen=True)
class Arm:
    """An arm as its name has it: what is skipped first, and eliminated then."""

    name: str
    skip: SkipChoice | None
    eliminate: EliminationChoice | None

    @classmethod
    def parse(cls, name: str, options: dict[str, str]) -> Arm:
        """From its options `skip` and `eliminate`, of which either may be missing."""
        try:
            return cls(
                name,
                parse_skip(options["skip"]) if "skip" in options else None,
                parse_elimination(options["eliminate"])
                if "eliminate" in options
                else None,
            )
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None


def score_arms(
    run: str | Path,
    corpus: str | Path,
    tokens: str | Path,
    tokenizer: str | Path,
    settings: dict[str, Any],
    output: str | Path,
    threads: int = 1,
    device: str = "auto",
) -> None:
    """Choose, on validation text, and score, on test text, every arm of a run.

    `settings` is the configuration's `evaluation` section with `prompt_tokens`, `seed`
    (of what is drawn by chance), `window` (last queries that tokens are ranked by, as
    in tuning) and `arms`: of each arm's name its options `skip` and `eliminate`. Writes
    to the folder `output`, for each arm, what `evaluate` writes for a run, and last
    `<run>/seed<k>.arms.json`: what was chosen, why, and what it saves.
    """
    torch.set_num_threads(threads)
    run, corpus, tokens, output = map(Path, (run, corpus, tokens, output))
    pieces, spec = Tokenizer(tokenizer), read_spec(run)
    model = load_run(run).to(machine.choose_device(device))
    arms = [Arm.parse(name, options) for name, options in settings["arms"].items()]
    skips = [arm.skip for arm in arms if arm.skip]
    found = calibrate(model, run, tokens, skips, settings)
    # All are resolved before the first is scored: a wrong one costs no time.
    entries = {arm.name: resolve(model, arm, found, settings) for arm in arms}
    seed = f"seed{spec['seed']}"
    for name, entry in entries.items():
        network, elimination = arm_network(model, entry)
        rows, kept = arm_rows(network, elimination, pieces, corpus, tokens, settings)
        place = output / name
        write_samples(kept, settings["samples_kept"], place / f"{seed}.samples.jsonl")
        with replacing(place / f"{seed}.parquet") as temporary:
            table = pd.DataFrame(rows, columns=COLUMNS).assign(form="trained")
            table.to_parquet(temporary, index=False)
    write_json(
        output / spec["name"] / f"{seed}.arms.json",
        {
            "model": spec["name"],
            "seed": spec["seed"],
            "importance": asdict(found.importance),
            "contribution": found.contribution,
            "profile": list(found.profile),
            "run_cache_bytes": cached(model.config, None, workload(settings)),
            "arms": entries,
        },
    )


def workload(settings: dict[str, Any]) -> Workload:
    """What arms are compared at."""
    return Workload(settings["prompt_tokens"], settings["new_tokens"])


# --- choosing -------------------------------------------------------------------------


def resolve(
    model: LlamaLM, arm: Arm, found: Calibration, settings: dict[str, Any]
) -> dict[str, Any]:
    """The arm's entry in `arms.json`. Raises UserError, naming it, if it cannot be."""
    try:
        left_out = chosen_skip(model, arm.skip, found) if arm.skip else Skip()
        network = skip(model, left_out.attention, left_out.ffn)
        elimination = None
        if arm.eliminate:
            elimination = tuned(network, arm.eliminate, found, settings)
    except ValueError as error:
        raise UserError(f"{arm.name}: {error}") from None
    costs = arm_costs(model.config, network.config, elimination, workload(settings))
    return arm_entry(left_out, elimination) | costs


def chosen_skip(model: LlamaLM, choice: SkipChoice, found: Calibration) -> Skip:
    """The blocks that a rule names, and what is left out of them."""
    importance = getattr(found.importance, choice.part)
    path = found.paths.get(choice.part)
    return choice.skip(choice.blocks(model.config.depth, importance, path))


def tuned(
    network: LlamaLM,
    choice: EliminationChoice,
    found: Calibration,
    settings: dict[str, Any],
) -> Elimination:
    """The elimination, as strong as its speed-up asks of the deployed `network`.

    `network` is skipped already: blocks without attention leave what they get. A
    profile that is flat, as that of a model which has hardly learnt to attend, gives
    less than is asked; how much, its predicted speed-up says.
    """
    config = network.config
    plain = choice.elimination(found.profile, config.depth, settings["seed"])
    profile = hold(plain.profile, config.skip.attention)
    held = replace(plain, profile=profile, window=settings["window"])
    spec, prompt = deployed_spec(config), settings["prompt_tokens"]
    return reach(spec, held, prompt, choice.speedup)


# --- scoring --------------------------------------------------------------------------


def arm_rows(
    network: LlamaLM,
    elimination: Elimination | None,
    pieces: Tokenizer,
    corpus: Path,
    tokens: Path,
    settings: dict[str, Any],
) -> tuple[list[Row], list[dict[str, Any]]]:
    """What an arm is scored on: continuations, and the evaluation sets of arms."""
    if elimination is not None and elimination.alpha == 0:
        elimination = None  # nothing is: to the last digit the network's own numbers
    rows = list(continuation_rows(network, tokens / "test", settings, elimination))
    sets = settings["arm_sets"]
    generated, kept = generated_rows(
        network, pieces, corpus, sets, settings, elimination
    )
    return rows + generated, kept
