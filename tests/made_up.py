"""Studies and results made by hand, for tests of the experiments."""

from __future__ import annotations

from typing import Any

import pandas as pd

from shallower.config import Study, load_study


def study_of(configuration: dict, contrasts: list | None = None, **parts: Any) -> Study:
    """The default study, at 10 steps of 8 x 128 tokens, with these experiments."""
    depth = [{"variants": ["baseline", "proposed"], "depths": [2, 4], "seeds": [0, 1]}]
    training = configuration["training"] | {"steps": 10, "batch_size": 8}
    model = configuration["model"] | {"context": 128}
    latency = configuration["latency"] | {"arms": None}
    changed = {"experiments": {"depth": depth, **parts}, "contrasts": contrasts or []}
    sizes = {"training": training, "model": model, "latency": latency}
    return load_study(configuration | sizes | changed)


def grid(variants: str, depth: int, seeds: list[int], **options: list) -> dict:
    return {
        "variants": variants.split(),
        "depths": [depth],
        "seeds": seeds,
        "options": options,
    }


def searching(configuration: dict) -> Study:
    """Three rates (3e-3 is the study's own), seeds 7 and 8; seed 0 is of `depth`."""
    rates = [1e-3, 3e-3, 9e-3]
    return study_of(
        configuration, learning_rate=[grid("baseline silu", 2, [7, 8], lr=rates)]
    )


def unit_rows(
    values: dict[tuple[str, int], float], dataset: str = "validation"
) -> pd.DataFrame:
    """Rows of by_seed.csv."""
    metric = "training_loss" if dataset == "train" else "cross_entropy"
    constants = {"scale": "study", "form": "trained", "mode": "eager", "unit": "nats"}
    return pd.DataFrame(
        [
            {"model": model, "unit_id": seed, "value": value}
            | {"dataset": dataset, "metric": metric}
            | constants
            for (model, seed), value in values.items()
        ]
    )


SEARCHED = {
    ("baseline-2__lr=1e-3", 7): 5.2,
    ("baseline-2__lr=1e-3", 8): 5.0,
    ("baseline-2", 7): 4.9,
    ("baseline-2", 8): 4.7,
    ("baseline-2__lr=9e-3", 7): 5.5,
    ("baseline-2__lr=9e-3", 8): 5.3,
    ("silu-2__lr=1e-3", 7): 4.5,
    ("silu-2__lr=1e-3", 8): 4.1,
    ("silu-2", 7): 4.6,
    ("silu-2", 8): 4.4,
    ("silu-2__lr=9e-3", 7): 4.7,
    ("silu-2__lr=9e-3", 8): 4.5,
    ("baseline-2", 0): 1.0,  # of the depth experiment: a seed that is not searched
}


def looks(values: dict[tuple[str, int, int], float]) -> pd.DataFrame:
    """Entropies of block 0 by (model, seed, iteration); block 1, seen later, too."""
    rows = [
        {
            "model": m,
            "seed": s,
            "iteration": i + block,
            "block": block,
            "value": entropy,
        }
        for (m, s, i), value in values.items()
        for block, entropy in enumerate((value, 6.6 - value))
    ]
    columns = ["model", "seed", "iteration", "block", "value"]
    return pd.DataFrame(rows, columns=columns).assign(quantity="entropy")


NO_LOOKS = looks({})


def sizes(study: Study) -> pd.DataFrame:
    """Rows of parameters.csv: a million parameters, and 1 for the paper's scale."""
    rows = [
        {"model": m, "scale": "study", "parameters_trained": 1_000_000}
        for m in study.models
    ]
    return pd.DataFrame(
        [*rows, {"model": "baseline-2", "scale": "paper", "parameters_trained": 1}]
    )


LOSSES = {
    ("baseline-2", 0): 4.0,
    ("baseline-2", 1): 4.2,
    ("baseline-2", 2): 4.4,
    ("baseline-2", 7): 9.0,  # the search's
    ("baseline-4", 0): 4.5,
    ("baseline-4", 1): 4.7,
    ("baseline-2__steps=40", 0): 3.0,
    ("baseline-2__steps=40", 1): 3.2,
    ("baseline-4__steps=40", 0): 2.0,
    ("baseline-4__steps=40", 1): 2.201,
    ("baseline-2__steps=40__width=64", 0): 3.5,
    ("baseline-2__steps=40__width=64", 1): 3.5,
    ("proposed-2__steps=40__init_std=0.5", 0): 1.0,
}


def full(configuration: dict) -> Study:
    """Two seeds of everything."""
    contrasts = [
        {"id": "a", "left": "silu-2", "right": "baseline-2", "test": "superiority"},
        {"id": "b", "left": "tanh-2", "right": "silu-2", "test": "superiority"},
    ]
    rates = {"lr": [1e-3, 3e-3, 9e-3], "init_std": [0.02, 0.05]}
    return study_of(
        configuration,
        contrasts,
        head=[grid("baseline proposed silu tanh", 2, [0, 1])],
        learning_rate=[grid("baseline silu", 2, [7, 8], **rates)],
        budget=[
            grid("baseline", 2, [0, 1], steps=[40]),
            grid("baseline", 4, [0, 1], steps=[40], width=[64]),
        ],
    )
