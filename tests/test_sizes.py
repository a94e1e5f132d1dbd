"""parameters.csv, predictions.csv and Table 1, by hand-computed sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import t5_models
from models_for_tests import ORIGINAL, tiny
from shallower.errors import UserError
from shallower.evaluation.sizes import (
    original_interventions,
    original_sizes,
    table_1,
    write_sizes,
)
from shallower.models.config import LlamaConfig, ModelConfig, SkippedParts
from shallower.models.registry import FFNS, HEADS
from shallower.study.runs import CountedModel, OriginalSpec, SizesSpec

SPEC = OriginalSpec(
    model=LlamaConfig(**ORIGINAL, depth=8),
    depths=[5, 8],
    heads={name: HEADS[name] for name in ("baseline", "proposed")},
    ffns={"none": FFNS["none"], "three_matrices": FFNS["three_matrices"]},
    skips=["attention.last.1", "block.last.2"],
    speedups=[1.25, 2],
    lengths=[128, 512],
)


def counted(
    variant: str, depth: int, config: ModelConfig, intervention: str = ""
) -> CountedModel:
    label = f"{variant}-{depth}"
    return CountedModel(
        label=label,
        model=label,
        intervention=intervention,
        system="S1",
        variant=variant,
        depth=depth,
        task="pairs" if variant.startswith("t5") else "text",
        config=config,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    folder = tmp_path_factory.mktemp("sizes")
    plain = tiny(depth=3)
    skipped = replace(plain, skip=SkippedParts((2,), (2,)))
    models = [
        counted("baseline", 3, plain),
        counted("baseline", 3, skipped, "skip=block.last.1"),
        counted("three_matrices", 2, tiny(ffn=FFNS["three_matrices"])),
        counted("t5_mini", 2, t5_models.tiny()),
    ]
    paths = folder / "parameters.csv", folder / "predictions.csv"
    return *paths, write_sizes(SizesSpec(models=models, original=SPEC), *paths)


def test_parameters(written: tuple[Path, Path, str]) -> None:
    table = pd.read_csv(written[0], keep_default_na=False)
    assert list(table["scale"]) == ["study"] * 4 + ["original"] * (2 + 4 + 2)
    plain, skipped, chain, t5 = table.to_dict("records")[:4]
    # One block of attention and SwiGLU with its two gains.
    block = 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32
    assert plain["parameters_trained"] - skipped["parameters_trained"] == block
    assert plain["parameters_trained"] == 2 * 300 * 32 + 3 * block + 32
    assert plain["weights_read"] == str(300 * 32 + 3 * block + 2 * 32)
    assert (plain["attending_blocks"], skipped["attending_blocks"]) == ("3", "2")
    assert skipped["intervention"] == "skip=block.last.1"
    assert (plain["width"], plain["vocabulary"]) == (32, 300)
    # Products of a block per token, of 32 tokens, and the output head: two FLOPs each.
    products = 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32 * 32
    assert plain["flops_per_token"] == 2 * (3 * products + 32 * 300)
    assert chain["parameters_trained"] > chain["parameters_deployed"]
    assert chain["flops_per_token"] > chain["flops_per_token_deployed"]
    assert (t5["weights_read"], t5["attending_blocks"]) == ("", "")
    text = written[0].read_text()
    assert ".0," not in text
    assert "nan" not in text


def test_sizes_at_the_originals_scale() -> None:
    table = original_sizes(SPEC).set_index(["model", "intervention"])
    sizes = table["parameters_trained"]
    deepest = sizes["baseline-8", ""]
    assert deepest == 166_740_992  # the original's Table 1
    skip = sizes["baseline-8", "skip=attention.last.1"]
    assert deepest - skip == 4 * 1024**2 + 1024
    assert deepest - sizes["none-8", ""] == 8 * (3 * 1024 * 2752 + 1024)
    assert table["attending_blocks"]["baseline-8", "skip=block.last.2"] == 6
    skips = table.index.get_level_values("intervention") != ""
    assert set(table["system"][skips]) == {"S3"}
    assert set(table["system"][["none-8", "three_matrices-8"]]) == {"S2"}


def test_table_1(written: tuple[Path, Path, str]) -> None:
    assert written[2].splitlines() == [
        "                5 blocks      8 blocks",
        "baseline     128,789,504   166,740,992",
        "proposed     129,449,984   167,797,760",
        "added            660,480     1,056,768",
    ]
    assert table_1(original_sizes(SPEC)) == written[2]


def test_predictions(written: tuple[Path, Path, str]) -> None:
    table = pd.read_csv(written[1], keep_default_na=False)
    skips, eliminations = table[:2], table[2:]
    assert list(skips["intervention"]) == [f"skip={text}" for text in SPEC.skips]
    assert set(skips["prompt_tokens"]) == set(skips["predicted_prefill"]) == {""}
    sizes = original_sizes(SPEC).set_index(["model", "intervention"])["weights_read"]
    for row in skips.itertuples():
        ratio = sizes["baseline-8", ""] / sizes["baseline-8", row.intervention]
        assert float(row.predicted_decode) == pytest.approx(ratio)
    assert set(eliminations["predicted_decode"]) == {""}
    assert list(eliminations["prompt_tokens"]) == ["128", "512", "128", "512"]
    prefill = eliminations["predicted_prefill"].astype(float).tolist()
    # Solved for the longest prompt, and no further than it takes.
    assert 1.25 <= prefill[1] < 1.26
    assert 2 <= prefill[3] < 2.02
    assert prefill[0] != prefill[1]


def test_a_speedup_beyond_the_profile_is_refused() -> None:
    message = r"latency\.interventions\.speedups: speed-up 9.0: with 512 tokens"
    with pytest.raises(UserError, match=message):
        original_interventions(SPEC.model_copy(update={"speedups": [9.0]}))
