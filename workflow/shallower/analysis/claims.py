"""`claims.csv`: every claim of the original with its verdict.

The rules were fixed before the reference study was run; they are those of `verdicts`,
with the margins of `evidence`. Nothing here is typed: a verdict follows from values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from shallower.analysis import published
from shallower.analysis.claim import Claim
from shallower.analysis.claims_elimination import ELIMINATION
from shallower.analysis.claims_ffn import exact_forms
from shallower.analysis.claims_second import SECOND
from shallower.analysis.claims_skip import SKIPPING
from shallower.analysis.claims_speed import (
    faster_than_deeper,
    step_times,
)
from shallower.analysis.claims_text import text_metrics
from shallower.analysis.evidence import Evidence
from shallower.analysis.statistics import trend
from shallower.analysis.verdicts import (
    Finding,
    Verdict,
    annotated,
    equivalence,
    non_inferiority,
    superiority,
)
from shallower.config import Study
from shallower.files import write_text
from shallower.sections import Contrast

COLUMNS = [
    *("id", "source", "claim", "effect", "unit", "ci_low", "ci_high", "threshold"),
    *("verdict", "note", "status"),
]
NAN = float("nan")
FOLD_TOLERANCE = {"fold_error_float64": 1e-10, "fold_error_float32": 1e-4}
EQUIVALENT = 0.03  # nats: A5 against A0


def write_claims(results: Path, study: Study, output: Path | None = None) -> None:
    """Write `claims.csv` from a study's summaries, into `output` if that is given."""
    evidence = Evidence(
        study,
        pd.read_csv(results / "by_seed.csv"),
        pd.read_csv(results / "parameters.csv"),
        results / "runs",
    )
    text = claims(evidence).to_csv(index=False, float_format="%.10g")
    write_text((output or results) / "claims.csv", text)


def claims(evidence: Evidence) -> pd.DataFrame:
    """The original's claims and the fold, the other systems', and the contrasts."""
    rows = []
    for claim in CLAIMS:
        found = claim.judge(evidence)
        rows.append(_row(claim, found, "claim of the original"))
    rows.append(_row(FOLD, folds(evidence), "identity"))
    for status, family in LATER.items():
        rows += [_row(claim, claim.judge(evidence), status) for claim in family]
    for contrast in evidence.study.contrasts:
        claim = Claim(contrast.id, _wording(contrast), "nats", counts)
        rows.append(_row(claim, judge_contrast(evidence, contrast), "pre-registered"))
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(claim: Claim, found: Finding, status: str) -> dict[str, object]:
    return {
        "id": claim.id,
        "source": claim.source,
        "claim": claim.claim,
        "effect": found.effect,
        "unit": claim.unit,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "threshold": found.threshold,
        "verdict": found.verdict,
        "note": found.note,
        "status": status,
    }


# --- arithmetic ---------------------------------------------------------------------


def _exact(wrong: int, of: int, what: str) -> Finding:
    verdict: Verdict = "supported" if not wrong else "not supported"
    note = f"{of - wrong} of {of} {what}"
    return Finding(float(wrong), NAN, NAN, 0.0, verdict, note)


def counts(evidence: Evidence) -> Finding:
    """C1: the twelve numbers of Table 1, counted on the model's own tensors."""
    sizes = evidence.study.paper_scale
    if any(getattr(sizes, key) != due for key, due in published.SIZES.items()):
        return Finding(NAN, NAN, NAN, 0.0, "not tested", "other sizes than Table 1's")
    due = published.TABLE_1
    depths = [depth for depth in sizes.depths if depth in due["added"]]
    wrong = 0
    for depth in depths:
        ours = {
            variant: evidence.parameter_count(f"{variant}-{depth}", "paper")
            for variant in ("baseline", "proposed")
        }
        ours["added"] = ours["proposed"] - ours["baseline"]
        wrong += sum(ours[kind] != due[kind][depth] for kind in due)
    return _exact(wrong, 3 * len(depths), "numbers are equal")


def per_block(evidence: Evidence) -> Finding:
    """C2: d^2/n + d parameters more in every block, at both scales."""
    study = evidence.study
    scales = [("study", study.model, study.depths)]
    scales += [("paper", study.paper_scale, study.paper_scale.depths)]
    wrong = total = 0
    for scale, sizes, depths in scales:
        due = sizes.width**2 // sizes.heads + sizes.width
        for depth in depths:
            more, base = (
                evidence.parameter_count(f"{variant}-{depth}", scale)
                for variant in ("proposed", "baseline")
            )
            wrong, total = wrong + (more - base != depth * due), total + 1
    return _exact(wrong, total, "models have exactly d^2/n + d more a block")


def folds(evidence: Evidence) -> Finding:
    """The largest change of a logit by folding, over all trained models that fold."""
    return exact_forms(evidence, FOLD_TOLERANCE, "no trained model folds")


# --- quality ------------------------------------------------------------------------


def richer(evidence: Evidence) -> Finding:
    """C3: per-head linear layers without SiLU; equal to the baseline is refuted.

    The fold shows that they add no function. What may be left is easier training.
    """
    pair = [f"{variant}-{evidence.shallow}" for variant in ("linear", "baseline")]
    found = evidence.paired(pair[0], pair[1])
    better, same = superiority(found), equivalence(found, EQUIVALENT)
    if better.verdict == "supported":
        return replace(better, note="better in training, although the layer folds away")
    if same.verdict == "supported":
        return replace(
            same, verdict="not supported", note="equivalent (TOST), as folded"
        )
    if better.verdict == "not supported":
        return replace(better, note="worse than without the layer")
    return replace(
        same, verdict=better.verdict, note=better.note or "TOST, 90 % interval"
    )


def each_depth(dataset: str, metric: str) -> Callable[[Evidence], Finding]:
    """C4, C5: proposed below baseline at every depth (intersection-union)."""

    def judge(evidence: Evidence) -> Finding:
        parts = [
            superiority(
                evidence.paired(f"proposed-{d}", f"baseline-{d}", dataset, metric)
            )
            for d in evidence.study.depths
        ]
        held = [d for d, p in zip(evidence.study.depths, parts, strict=True)]
        return annotated(parts, [f"{d} blocks" for d in held])

    return judge


def matches_deeper(evidence: Evidence) -> Finding:
    """C6: proposed no worse than every deeper baseline, where depth pays at all."""
    depths = evidence.study.depths
    pairs = [(low, high) for low in depths for high in depths if low < high]
    parts = []
    for low, high in pairs:
        depth_pays = evidence.paired(f"baseline-{low}", f"baseline-{high}")
        found = evidence.paired(f"proposed-{low}", f"baseline-{high}")
        part = non_inferiority(found, evidence.margin, [depth_pays])
        parts.append(part)
    return annotated(parts, [f"{low} against {high}" for low, high in pairs])


def converges(evidence: Evidence) -> Finding:
    """C9: tokens until the baseline's final training loss, over the baseline's."""
    parts, labels = [], []
    for depth in evidence.study.depths:
        shares = [
            tokens_to_target(evidence, depth, seed) for seed in evidence.study.seeds
        ]
        found = superiority(np.array(shares) - 1)
        moved = {
            key: getattr(found, key) + 1 for key in ("effect", "ci_low", "ci_high")
        }
        parts.append(replace(found, threshold=1.0, **moved))
        labels.append(f"{depth} blocks")
    return annotated(parts, labels)


def tokens_to_target(evidence: Evidence, depth: int, seed: int) -> float:
    """Share of the steps after which the proposed model has the baseline's final loss.

    Losses are smoothed as in Figure 2a; 1 if it never gets there, which counts
    against the claim.
    """
    curves = []
    for variant in ("proposed", "baseline"):
        path = evidence.runs / f"{variant}-{depth}" / f"seed{seed}" / "losses.csv"
        losses = pd.read_csv(path, index_col="iteration")["loss"]
        window = max(1, len(losses) // 10)
        curves.append(losses.rolling(window).mean().dropna())
    proposed, baseline = curves
    there = proposed[proposed <= baseline.iloc[-1]]
    return float(there.index[0] / baseline.index[-1]) if len(there) else 1.0


def deeper_is_better(evidence: Evidence) -> Finding:
    """C11: the trend of baselines over depth, at the largest budget per parameter."""
    depths = (evidence.shallow, evidence.deep)
    budgets = evidence.budgets(depths)
    notes, found = [], Finding(NAN, NAN, NAN, 0.0, "not tested", "no budget")
    for _, shallow, deep, ratio in budgets:
        gaps = evidence.paired(deep, shallow)
        found = superiority(gaps)
        notes.append(f"{gaps.mean():+.3f} at {ratio:.2g}")
    slope, low, high, _ = trend(*_by_depth(evidence))
    note = (
        f"{depths[1]} against {depths[0]} blocks by tokens a parameter: "
        f"{', '.join(notes)}; slope at the main budget {slope:+.3f} "
        f"[{low:.3f}, {high:.3f}] nats a block"
    )
    return replace(found, note=found.note or note)


def _by_depth(evidence: Evidence) -> tuple[list[int], np.ndarray]:
    """Depths, and the baselines' cross-entropy as (seeds, depths)."""
    depths = evidence.study.depths
    columns = [
        evidence.values(f"baseline-{d}", "text", "cross_entropy") for d in depths
    ]
    return depths, pd.concat(columns, axis=1).dropna().to_numpy()


# --- contrasts ----------------------------------------------------------------------


def judge_contrast(evidence: Evidence, contrast: Contrast) -> Finding:
    """A pre-registered contrast, by the test that was registered with it."""
    found = evidence.paired(contrast.left, contrast.right)
    if contrast.test == "superiority":
        return superiority(found)
    return equivalence(found, contrast.margin)


def _wording(contrast: Contrast) -> str:
    relation = {
        "superiority": "has a lower test cross-entropy than",
        "equivalence": f"is within {contrast.margin:g} nats of",
    }[contrast.test]
    return f"{contrast.left} {relation} {contrast.right}"


CLAIMS = [
    Claim("C1", "Table 1's parameter counts", "numbers that differ", counts),
    Claim(
        "C2",
        "the layer adds d^2/n + d parameters a block",
        "models that differ",
        per_block,
    ),
    Claim("C3", "linear layers make the heads richer", "nats", richer),
    Claim(
        "C4",
        "the proposed block trains to a lower loss at every depth",
        "nats",
        each_depth("train", "training_loss"),
    ),
    Claim(
        "C5",
        "the proposed block has a lower test perplexity at every depth",
        "nats",
        each_depth("text", "cross_entropy"),
    ),
    Claim(
        "C6",
        "each proposed model is no worse than every deeper baseline",
        "nats",
        matches_deeper,
    ),
    Claim(
        "C7",
        "the shallowest proposed model decodes faster than the deepest baseline",
        "ratio",
        faster_than_deeper,
    ),
    Claim(
        "C8", "text metrics out of distribution do not drop", "percent", text_metrics
    ),
    Claim("C9", "the proposed block converges faster", "ratio", converges),
    Claim(
        "C10",
        "training time grows with depth, and the layer costs little",
        "ratio",
        step_times,
    ),
    Claim("C11", "deeper is better", "nats", deeper_is_better),
]
LATER = {  # status -> claims
    "claim of the thesis": SECOND,
    "claim on skipping": SKIPPING,
    "claim on elimination": ELIMINATION,
}
FOLD = Claim("fold", "folding the added layer changes nothing", "logits", folds)
