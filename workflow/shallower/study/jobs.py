"""How many jobs of each rule a study takes. Free of torch: the terminal asks it."""

from __future__ import annotations

from shallower.corpus.downloaded import hub_sources
from shallower.study.study import Study


def jobs_of(study: Study) -> dict[str, int]:
    """Jobs by rule, in the order of the pipeline, if nothing of the study is there."""
    once = "latency summary estimates figures tables typeset provenance paper page"
    downloads = {
        "download": len(hub_sources(study.corpus)) + len(study.pretrained.downloads),
        "download_file": 1 if study.tokenizer.hub else 0,
    }
    # Of trained models.
    notebooks = ("notebook_training", "notebook_comparison", "notebook_claim")
    held_out = 2  # splits beside the training text, which the estimates count
    return {
        **{rule: number for rule, number in downloads.items() if number},
        "corpus": 1,
        "tokenizer": 1,
        "shard": study.shards.parts + held_out,
        "shards": 1 + held_out,
        "parameters": 1,
        "floors": 1,
        **({"pairs": 1} if study.experiments.t5 else {}),
        **dict.fromkeys(("train", "evaluate") if study.runs else (), len(study.runs)),
        **({"pretrained": len(study.scored)} if study.scored else {}),
        **dict.fromkeys(once.split(), 1),
        **dict.fromkeys(notebooks if study.runs else (), 1),
        "all": 1,
    }
