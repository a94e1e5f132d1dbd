"""`parameters.csv` and Table 1: sizes of all models, without allocating any."""

from __future__ import annotations

from typing import Any

import pandas as pd

from shallower.models.counting import count_parameters
from shallower.models.families import deployed, on_meta, parse
from shallower.names import split_name
from shallower.training.tasks import count_forward


def count(specs: dict[str, dict[str, Any]], paper: dict[str, Any]) -> pd.DataFrame:
    """One row per model at the study's scale, and at the paper's (Table 1).

    `specs` are run specifications by model, `paper` what `wanted.paper_scale` gives.
    Arms that leave something out are models too; elimination changes none of it.
    """
    models = [("study", name, spec) for name, spec in specs.items()]
    apart = ("depths", "variants", "ffns", "arms")
    sizes = {k: v for k, v in paper.items() if k not in apart}
    deep = max(paper["depths"])
    models += [
        (
            "paper",
            f"{name}-{deep}",
            {"system": "S2", "model": sizes | {"depth": deep, "head": {}} | ffn},
        )
        for name, ffn in ((n, {"ffn": f}) for n, f in paper.get("ffns", {}).items())
    ]
    models += [
        ("paper", f"{name}-{depth}", {"model": sizes | {"depth": depth, "head": head}})
        for name, head in paper["variants"].items()
        for depth in paper["depths"]
    ]
    plain = sizes | {"depth": deep, "head": {}}
    models += [
        ("paper", arm, {"system": "S3", "model": plain | {"skip": entry["skip"]}})
        for arm, entry in paper.get("arms", {}).items()
        if entry["elimination"] is None
    ]
    return pd.DataFrame([_row(*model) for model in models])


def _row(scale: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    network, task = on_meta(parse(spec["model"])), spec.get("task", "text")
    reduced = deployed(network)
    variant, depth, _ = split_name(name)
    return {
        "model": name,
        "system": spec.get("system", "S1"),
        "scale": scale,
        "depth": depth,
        "variant": variant,
        "parameters_trained": count_parameters(network),
        "parameters_deployed": count_parameters(reduced),
        "flops_per_token": count_forward(network, task),
        "flops_per_token_deployed": count_forward(reduced, task),
    }


def table_1(table: pd.DataFrame) -> str:
    """The paper's Table 1 as text: baseline, proposed and the difference by depth."""
    named = table["model"].str.contains("__")  # arms, which are not in it
    rows = table[(table["scale"] == "paper") & ~named]
    wide = rows.pivot(index="variant", columns="depth", values="parameters_trained")
    wide.loc["added"] = wide.loc["proposed"] - wide.loc["baseline"]
    lines = [" " * 10 + "".join(f"{depth:>7} blocks" for depth in wide.columns)]
    for name, counts in wide.iterrows():
        lines.append(f"{name:<10}" + "".join(f"{n:>14,}" for n in counts))
    return "\n".join(lines)
