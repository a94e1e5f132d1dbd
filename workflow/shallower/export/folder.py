"""Write a run's model as a folder for `transformers`, all or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from shallower.errors import UserError
from shallower.export.card import Card
from shallower.models.families import LanguageModel, deployed
from shallower.models.hugging_face import difference, to_hugging_face
from shallower.models.hugging_face_t5 import to_hugging_face_t5
from shallower.models.llama import LlamaLM
from shallower.models.t5 import OWN_FFN, PAD, T5LM
from shallower.models.transforms import fold
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import load_model, read_spec


@dataclass(frozen=True)
class Export:
    """What is exported, and where to."""

    folder: Path  # of a run
    tokenizer: Path
    form: str  # trained, folded, collapsed, or deployed: the last of these it has
    output: Path
    licence: str | None = None  # of the text; None: the card says nothing of it


def export(job: Export) -> None:
    """Write `job.output`, which must not exist.

    Raises UserError if it does, if the run, form or tokenizer is not what it should be,
    and for models that neither `transformers` nor `models/exported.py` can load.
    """
    if job.output.exists():
        raise UserError(f"{job.output}: exists already, expected a new folder's name")
    spec, model = read_run(job.folder)
    pieces = spec["model"].get("pieces", spec["model"]["vocabulary"])
    tokenizer = Tokenizer(job.tokenizer)
    if len(tokenizer) != pieces:
        raise UserError(
            f"{job.tokenizer}: {len(tokenizer)} pieces, but {job.folder} was trained "
            f"with {pieces}"
        )
    model, form = in_form(model, job.form, job.folder)
    theirs = for_transformers(model, job.folder)
    padding = PAD if isinstance(model, T5LM) else tokenizer.unknown
    for holder in (theirs.config, theirs.generation_config):
        holder.bos_token_id, holder.eos_token_id = tokenizer.bos, tokenizer.eos
        holder.pad_token_id = padding
    kind, ours = type(theirs).__name__, theirs.is_custom_code()
    card = Card(str(spec["name"]), spec["seed"], form, kind, ours, job.licence)
    # transformers is there by now, and these come with it.
    from transformers.utils.logging import disable_progress_bar

    from shallower.export.tokenizer import write_tokenizer

    disable_progress_bar()
    with new_folder(job.output) as folder:
        theirs.save_pretrained(folder)
        extra = model.config.vocabulary - pieces if isinstance(model, T5LM) else None
        write_tokenizer(job.tokenizer, folder, extra, model.config.context)
        (folder / "README.md").write_text(card.text(job.output.name), encoding="utf-8")


def read_run(folder: Path) -> tuple[dict[str, Any], LanguageModel]:
    """Specification and model of a run. Raises UserError where that is none."""
    for name in ("spec.yaml", "model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name}, expected a finished run's folder")
    try:
        spec, model = read_spec(folder), load_model(folder)
        return {key: spec[key] for key in ("name", "seed", "model")}, model
    except (
        *(KeyError, TypeError, ValueError, RuntimeError),
        *(SafetensorError, yaml.YAMLError),
    ) as error:
        # torch names every tensor that does not fit, a line each.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: not a run that can be loaded: {reason}") from None


def in_form(model: LanguageModel, form: str, folder: Path) -> tuple[LanguageModel, str]:
    """The model in a form, and that form's name.

    Raises UserError if the model has no such form; `deployed` is there always.
    """
    there = {
        "trained": True,
        "folded": isinstance(model, LlamaLM) and model.config.head.folds,
        "collapsed": model.config.ffn.collapses,
    }
    forms = [name for name, is_there in there.items() if is_there]
    if form == "deployed":
        form = forms[-1]
    if form not in forms:
        expected = ", ".join([*forms, "deployed"])
        raise UserError(f"--form: {folder} cannot be {form}, expected {expected}")
    if form == "trained":
        return model, form
    if form == "folded":
        assert isinstance(model, LlamaLM)
        return fold(model), form
    return deployed(model), form


def for_transformers(model: LanguageModel, folder: Path) -> Any:
    """The model behind Hugging Face's interface, of their own class where one is."""
    try:
        import transformers  # noqa: F401  a dependency of this command alone
    except ModuleNotFoundError:
        raise UserError(
            "transformers is not installed: pip install 'transformers>=5'"
        ) from None
    if isinstance(model, T5LM):
        if model.config.ffn != OWN_FFN:
            raise UserError(
                f"{folder}: {model.config.ffn} in an encoder-decoder cannot be "
                "exported, expected one with T5's own FFN"
            )
        return to_hugging_face_t5(model)
    if difference(model.config) is None:
        return to_hugging_face(model)
    from shallower.models.exported import ShallowerForCausalLM

    return ShallowerForCausalLM.of(model)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` if all went well.

    Raises UserError if `path` is there by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        # mkdtemp makes folders private; results are for everyone the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        for file in temporary.iterdir():
            file.chmod(0o666 & ~umask)
        if path.exists():
            raise UserError(f"{path}: exists already, expected a new folder's name")
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
