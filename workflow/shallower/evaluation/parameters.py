"""`parameters.csv` and Table 1: sizes of all models, without allocating any."""

from __future__ import annotations

from typing import Any

import pandas as pd

from shallower.models.counting import (
    count_deployed,
    count_flops_per_token,
    count_parameters,
    on_meta,
)
from shallower.models.llama import LlamaConfig
from shallower.models.transforms import deploy
from shallower.names import split_name, system


def count(specs: dict[str, dict[str, Any]], paper: dict[str, Any]) -> pd.DataFrame:
    """One row per model at the study's scale, and at the paper's (Table 1).

    `specs` are run specifications by model, `paper` what `Study.paper` gives.
    """
    models = [
        ("study", name, LlamaConfig.parse(s["model"])) for name, s in specs.items()
    ]
    sizes = {k: v for k, v in paper.items() if k not in ("depths", "variants", "ffns")}
    plain = {"depth": max(paper["depths"]), "head": {}}
    models += [
        ("paper", f"{name}-{plain['depth']}", LlamaConfig.parse(sizes | plain | ffn))
        for name, ffn in ((n, {"ffn": f}) for n, f in paper.get("ffns", {}).items())
    ]
    models += [
        (
            "paper",
            f"{name}-{depth}",
            LlamaConfig.parse(sizes | {"depth": depth, "head": head}),
        )
        for name, head in paper["variants"].items()
        for depth in paper["depths"]
    ]
    rows = []
    for scale, name, config in models:
        network = on_meta(config)
        rows.append(
            {
                "model": name,
                "system": system(name),
                "scale": scale,
                "depth": config.depth,
                "variant": split_name(name)[0],
                "parameters_trained": count_parameters(network),
                "parameters_deployed": count_deployed(network),
                "flops_per_token": count_flops_per_token(network),
                "flops_per_token_deployed": count_flops_per_token(deploy(network)),
            }
        )
    return pd.DataFrame(rows)


def table_1(table: pd.DataFrame) -> str:
    """The paper's Table 1 as text: baseline, proposed and the difference by depth."""
    rows = table[table["scale"] == "paper"]
    wide = rows.pivot(index="variant", columns="depth", values="parameters_trained")
    wide.loc["added"] = wide.loc["proposed"] - wide.loc["baseline"]
    lines = [" " * 10 + "".join(f"{depth:>7} blocks" for depth in wide.columns)]
    for name, counts in wide.iterrows():
        lines.append(f"{name:<10}" + "".join(f"{n:>14,}" for n in counts))
    return "\n".join(lines)
