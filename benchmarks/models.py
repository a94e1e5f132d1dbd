"""The models that are measured: the default study's, the original's, others' sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snakemake.common.configfile import load_configfile

from shallower.models.config import LlamaConfig
from shallower.models.hugging_face import to_hugging_face
from shallower.models.initial import initialise
from shallower.models.llama import LlamaLM
from shallower.pretrained.checkpoint import open_model
from shallower.study.schema import Training
from shallower.study.study import load_study

ROOT = Path(__file__).resolve().parents[1]
DEFAULT: dict[str, Any] = load_configfile(ROOT / "config.yaml")  # the default study


def _sizes(section: str) -> dict[str, int]:
    names = ("width", "heads", "ffn_hidden", "context")
    return {name: DEFAULT[section][name] for name in names}


STUDY = _sizes("model") | {"vocabulary": DEFAULT["tokenizer"]["vocabulary"]}
WINDOWS: int = DEFAULT["training"]["batch_size"]  # of the study, a step
ORIGINAL = _sizes("original") | {"vocabulary": DEFAULT["original"]["vocabulary"]}
# Twice the study's width and context.
WIDER = {"width": 128, "heads": 8, "ffn_hidden": 344, "context": 256}
WIDER |= {"vocabulary": 2048}


def settings(precision: str = "float32", compiled: str = "never") -> Training:
    """How every implementation trains; the steps are counted by the benchmarks."""
    values = {"precision": precision, "compile": compiled}
    return Training(steps=2, batch_size=1, learning_rate=1e-3, **values)


def ours(depth: int, **sizes: int) -> LlamaLM:
    """A baseline with its first weights."""
    return initialise(LlamaLM(LlamaConfig(**sizes, depth=depth)), 0)


def smollm2(context: int) -> LlamaLM:
    """The checkpoint of the default study, in fp32."""
    study = load_study(DEFAULT)
    path = study.pretrained.chosen["smollm2-135m"].path("smollm2-135m")
    return open_model(path, context)


def hugging_face(model: LlamaLM) -> Any:
    """The same weights in `LlamaForCausalLM`."""
    return to_hugging_face(model)
