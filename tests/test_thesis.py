"""The thesis' columns: by formula, against real models, and what its maxima hide."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from shallower.analysis import thesis
from shallower.analysis.thesis import DISTILLED, HEAD_ROWS, ROWS, SIZES, Row
from shallower.models.config import T5Config
from shallower.models.costs import count_flops, count_parameters
from shallower.models.families import on_meta
from shallower.models.t5 import T5LM
from shallower.models.transforms import collapse

BY_NAME = {row.name: row for row in ROWS}


def mini(row: Row, context: int = 512) -> T5LM:
    """The row's model without storage, its chains collapsed."""
    sizes = (384, 4, 4, row.heads, row.head_size, 1536, context)
    return collapse(on_meta(T5Config(32_128, *sizes, ffn=row.ffn)))


# --- parameters -----------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_counts_are_those_of_real_models(row: Row) -> None:
    model = mini(row)
    without_embedding = count_parameters(model) - model.embedding.weight.numel()
    assert round(1e6 * thesis.readings(row)["model"]) == without_embedding


def test_the_printed_column_is_reproduced() -> None:
    """To the last printed digit, but for two rows that no reading explains."""
    table = thesis.overview().set_index("row")
    assert list(table.index[table["parameters_printed"].isna()]) == [
        "head_size",
        "heads_and_size",
    ]
    explained = table.dropna()
    assert explained["parameters_printed"].round(3).tolist() == [
        *(15.351, 5.907, 10.629, 16.530),
        *[10.626] * 7,
    ]
    assert explained["parameters"].tolist() == explained["parameters_printed"].round(
        3
    ).tolist()  # fmt: skip
    assert set(table.index[table["modules"] == 12]) == HEAD_ROWS


def test_counts_as_stated() -> None:
    """By hand: 12 modules of 4 x 384 x 256 weights, norms, FFNs."""
    stated = thesis.overview().set_index("row")["parameters_stated"] * 1e6
    attention = 12 * (4 * 384 * 256 + 768)
    assert stated["none"] == pytest.approx(attention)
    assert stated["baseline"] == pytest.approx(attention + 8 * (2 * 384 * 1536 + 768))
    assert stated["one_matrix"] == pytest.approx(attention + 8 * (384 * 384 + 768))
    assert stated["heads_and_size"] / 1e6 == pytest.approx(23.608, abs=5e-4)
    # A coincidence: the printed count without FFNs is that of collapsed ones whose
    # chains have no norm, to the last unit.
    collapsed = thesis.parameters(BY_NAME["one_matrix"], 12, 768, 384, chain_norm=False)
    assert collapsed == 5_907_456 == thesis.parameters(BY_NAME["none"], 15, 768, 0)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
@pytest.mark.parametrize("head_size", [32, 64])
def test_sizes_need_heads_of_64(size: thesis.Size, head_size: int) -> None:
    sizes = (size.width, size.layers, size.layers, size.heads, head_size)
    model = on_meta(T5Config(32_128, *sizes, size.ffn_hidden, 512))
    assert thesis.total_parameters(size, head_size) == count_parameters(model)
    assert thesis.fits(size, head_size) == (head_size == 64)


# --- FLOPs ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["baseline", "none_encoder", "heads", "three_1.5x"])
def test_flops_are_those_of_real_models(name: str) -> None:
    ids = torch.zeros(1, 64, dtype=torch.long, device="meta")
    head = 2 * 64 * 384 * 32_128
    counted = count_flops(mini(BY_NAME[name], context=64), ids, ids) - head
    assert round(1e9 * thesis.flops(BY_NAME[name])) == counted


def test_printed_flops_exceed_those_of_a_collapsed_chain() -> None:
    """Within 5 % for default FFNs; half as many again for chains."""
    for row in ROWS:
        ratio = row.flops / thesis.flops(row)
        if thesis.blocks_with(row, "linear"):
            assert ratio > 1.5
        elif row.head_size == 32:
            assert 1.02 < ratio < 1.045


# --- the best of five -----------------------------------------------------------------


def test_expected_maxima() -> None:
    """Against closed forms and the tables of normal order statistics."""
    assert thesis.expected_maximum(1) == pytest.approx(0, abs=1e-12)
    assert thesis.expected_maximum(2) == pytest.approx(np.pi**-0.5, abs=1e-12)
    assert thesis.expected_maximum(3) == pytest.approx(1.5 * np.pi**-0.5, abs=1e-12)
    assert thesis.expected_maximum() == pytest.approx(1.16296447, abs=1e-8)
    assert thesis.difference_sd(1, 0, 2) == pytest.approx((1 - 1 / np.pi) ** 0.5)
    assert thesis.difference_sd(0, 1, 5) == pytest.approx(0.66898, abs=1e-5)


def test_maxima_by_simulation() -> None:
    """A noisier model gains by its spread alone."""
    base, noisy = DISTILLED[0], DISTILLED[2]  # Mini; Base to Mini
    draw = np.random.default_rng(0)
    left = draw.normal(0, noisy.sd, (100_000, 5)).max(1)
    right = draw.normal(0, base.sd, (100_000, 5)).max(1)
    gain, luck = thesis.gain_and_luck(noisy)
    assert luck == pytest.approx((left - right).mean(), abs=0.02)
    sd = thesis.difference_sd(noisy.sd, base.sd)
    assert sd == pytest.approx((left - right).std(), rel=0.01)
    assert gain == pytest.approx(1.2)
    assert gain < luck
    small = thesis.gain_and_luck(DISTILLED[1])
    assert small == pytest.approx((1.3, 1.16296447 * (0.56 - 0.32)))


def test_facts() -> None:
    facts = {fact.key: fact.value for fact in thesis.facts()}
    due = {
        "rows": 13,
        "rows.reproduced": 10,
        "rows.other": 1,
        "rows.unexplained": 2,
        "one_matrix.less": 58.27,
        "one_matrix.less.published": 30.78,
        "sizes.fit64": 4,
        "sizes.stated32": 3,
        "noise.two_matrices.sigmas": 0.2 / 0.303,
        "noise.three_matrices.sigmas": 2.31,
    }
    for key, value in due.items():
        assert facts[f"thesis.{key}"] == pytest.approx(value, abs=5e-3), key


def test_the_tables_need_no_torch() -> None:
    code = "import sys, shallower.analysis.thesis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
