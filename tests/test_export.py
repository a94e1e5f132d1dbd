"""Exported folders: what `transformers` makes of them is the model that was trained."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

import t5_models
from conftest import sentences
from exports import (
    PLAIN,
    PROMPTS,
    TOKENS,
    continued,
    exported,
    load,
    model_of,
    of,
    one_thread,  # noqa: F401  for every test
    write_run,
)
from models_for_tests import tiny
from shallower.cli import main
from shallower.errors import UserError
from shallower.evaluation.generation import generate
from shallower.export.folder import Export, export
from shallower.models.registry import FFNS, HEADS
from shallower.models.transforms import collapse, deploy, fold
from shallower.tokens import tokenizer
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import save_weights

# --- what plain transformers can load -----------------------------------------------


@pytest.mark.parametrize("kind", PLAIN)
def test_a_baseline_is_hugging_faces_llama(
    kind: str, corpus: Path, tmp_path: Path
) -> None:
    model = of(replace(tiny(), **PLAIN[kind]))
    theirs = load(exported(corpus, tmp_path, model))
    assert type(theirs).__name__ == "LlamaForCausalLM"
    with torch.no_grad():
        due = model(TOKENS)
        assert due.std() > 0.1
        assert (theirs(TOKENS).logits - due).abs().max() < 2e-5
    ours = generate(model, PROMPTS, 12, stop=None)
    assert continued(theirs, PROMPTS, 12, eos_token_id=None) == ours


@pytest.mark.slow
def test_without_this_package(corpus: Path, tmp_path: Path) -> None:
    """A process that cannot import it reads the baseline, and refuses the others."""
    model = of(tiny())
    plain = exported(corpus, tmp_path, model)
    other = exported(corpus, tmp_path, of(tiny("proposed")))
    code = f"""if True:
        import sys, torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        text, ids = "the cat sat", torch.tensor({PROMPTS[2:3]})
        model = AutoModelForCausalLM.from_pretrained({str(plain)!r})
        with torch.no_grad():
            print(model(ids).logits.double().abs().sum().item())
        for folder in ({str(plain)!r}, {str(other)!r}):
            print(*AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
        try:
            AutoModelForCausalLM.from_pretrained({str(other)!r})
        except ValueError as error:
            print("model type `shallower`" in str(error))
        print(any(name.startswith("shallower") for name in sys.modules))
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    total, first, second, refused, imported = run.stdout.splitlines()
    with torch.no_grad():
        due = model(torch.tensor(PROMPTS[2:3])).double().abs().sum().item()
    assert float(total) == pytest.approx(due, rel=1e-5)
    pieces = Tokenizer(corpus / "tokenizer.model")
    ids = [pieces.bos, *pieces.encode("the cat sat")]
    assert first == second == " ".join(map(str, ids))
    assert (refused, imported) == ("True", "False")


# --- what our module loads ----------------------------------------------------------

OTHERS = [name for name in HEADS if name not in PLAIN]
OTHERS += [*FFNS, "no attention first", "no ffn", "nothing", "odd heads", "family"]


@pytest.mark.parametrize("kind", OTHERS)
def test_all_others_compute_what_was_trained(
    kind: str, corpus: Path, tmp_path: Path
) -> None:
    model = model_of(kind)
    folder = exported(corpus, tmp_path, model)
    theirs = load(folder)
    assert type(theirs).__name__ == "ShallowerForCausalLM"
    assert not list(folder.glob("*.py"))
    with torch.no_grad():
        assert torch.equal(theirs(TOKENS).logits, model(TOKENS))
    ours = generate(model, PROMPTS, 12, stop=None)
    assert continued(theirs, PROMPTS, 12, eos_token_id=None) == ours
    assert len({tuple(answer) for answer in ours}) > 1


@pytest.mark.parametrize(
    ("kind", "form", "deploys"),
    [
        ("proposed", "folded", fold),
        ("shared_linear_silu", "folded", fold),
        ("three_matrices", "folded", fold),
        ("three_matrices", "collapsed", deploy),
        ("three_matrices", "deployed", deploy),
        ("proposed", "deployed", deploy),
        ("silu", "deployed", deploy),
    ],
)
def test_forms_are_those_of_the_study(
    kind: str, form: str, deploys: Any, corpus: Path, tmp_path: Path
) -> None:
    model = model_of(kind)
    folder = exported(corpus, tmp_path, model, form)
    theirs, due = load(folder), deploys(model)
    assert theirs.num_parameters() == sum(p.numel() for p in due.parameters())
    with torch.no_grad():
        assert torch.equal(theirs(TOKENS).logits, due(TOKENS))
        # As trained, up to rounding: the oracle that knows nothing of forms.
        assert (theirs(TOKENS).logits - model(TOKENS)).abs().max() < 1e-4
    name = {"silu": "trained", "proposed": "folded"}.get(kind, "collapsed")
    name = form if form != "deployed" else name
    assert f"seed 7, {name}" in (folder / "README.md").read_text()


def test_a_collapsed_baseline_keeps_its_heads(corpus: Path, tmp_path: Path) -> None:
    model = of(replace(tiny(), ffn=FFNS["two_matrices"]))
    theirs = load(exported(corpus, tmp_path, model, "collapsed"))
    assert theirs.config.ffn_variant == {"kind": "linear"}
    with torch.no_grad():
        assert torch.equal(theirs(TOKENS).logits, collapse(model)(TOKENS))


# --- errors -------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], output: Path, **changes: Any) -> str:
    """The one line that the command says, having left nothing behind."""
    there = set(output.parent.iterdir())
    options = {"form": "trained", "output": output} | changes
    arguments = [x for k, v in options.items() for x in (f"--{k}", str(v))]
    with pytest.raises(SystemExit) as stop:
        main(["export", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1, error
    assert set(output.parent.iterdir()) == there
    return error


def test_errors_are_one_line_and_leave_nothing(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", of(tiny()))
    usual = {"run": run, "tokenizer": corpus / "tokenizer.model"}
    out = tmp_path / "out"

    def saying(**changes: Any) -> str:
        return refused(capsys, out, **usual | changes)

    assert "cannot be folded, expected trained, deployed" in saying(form="folded")
    assert "cannot be collapsed" in saying(form="collapsed")
    assert "no spec.yaml" in saying(run=tmp_path / "nowhere")
    assert "no such tokenizer" in saying(tokenizer=tmp_path / "no.model")
    tokenizer.train(sentences(60), 290, tmp_path / "small.model")
    said = saying(tokenizer=tmp_path / "small.model")
    assert "290 pieces" in said
    assert "with 300" in said
    weights = run / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "weights cannot be loaded" in saying()
    save_weights(of(tiny("proposed")).state_dict(), weights)
    assert "weights cannot be loaded" in saying()
    weights.unlink()
    assert "no model.safetensors" in saying()
    weights.write_bytes(whole)
    (run / "spec.yaml").write_text("name: [")
    assert "spec.yaml: not YAML" in saying()
    out.mkdir()
    assert "exists already" in saying()


def test_other_t5s_and_other_tokenizers_are_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = {"tokenizer": corpus / "tokenizer.model"}
    for name, form in (("none", "trained"), ("two_matrices", "collapsed")):
        model = t5_models.build(FFNS[name], vocabulary=400)
        run = write_run(tmp_path / name, model, pieces=300)
        said = refused(capsys, tmp_path / "out", run=run, form=form, **usual)
        assert "expected one with T5's own FFN" in said
    kinds: dict[str, dict[str, Any]] = {
        "unigram": {"model_type": "unigram", "vocab_size": 40},
        "normalised": {"model_type": "bpe", "vocab_size": 300, "byte_fallback": True},
    }
    for name, kind in kinds.items():
        path = tmp_path / f"{name}.model"
        with path.open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences(300)),
                model_writer=file,
                minloglevel=2,
                **kind,
            )
        model = of(tiny("proposed", vocabulary=kind["vocab_size"]))
        run = write_run(tmp_path / name, model)
        said = refused(capsys, tmp_path / "out", run=run, tokenizer=path)
        assert f"{name}.model: cannot be exported" in said


def test_what_fails_half_way_leaves_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", of(tiny("proposed")))
    job = Export(run, corpus / "tokenizer.model", "folded", tmp_path / "a" / "out")

    def full(*_: Any) -> None:
        assert list((tmp_path / "a").glob(".out.*/model.safetensors"))
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("shallower.export.tokenizer.write_tokenizer", full)
        with pytest.raises(OSError, match="No space"):
            export(job)
    assert not list((tmp_path / "a").iterdir())
    export(job)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]
    modes = {p.stat().st_mode & 0o777 for p in job.output.iterdir()}
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {0o666 & ~umask}
    assert job.output.stat().st_mode & 0o777 == 0o777 & ~umask


# --- the card and the harness -------------------------------------------------------


def test_the_card_says_what_it_is(corpus: Path, tmp_path: Path) -> None:
    for name, licence in (("baseline", None), ("proposed", "Wikipedia,\nCC BY-SA 4.0")):
        run = write_run(tmp_path / name, of(tiny(name)))
        path, output = corpus / "tokenizer.model", tmp_path / f"out-{name}"
        export(Export(run, path, "deployed", output, licence))
        card = (output / "README.md").read_text()
        assert "baseline-2, seed 7" in card  # the name in the specification
        assert ("licence" in card) == (licence is not None)
        assert ("import shallower.models.exported" in card) == (name == "proposed")
        assert f"from_pretrained('{output.name}')" in card
        files = {p.name for p in output.iterdir()}
        assert {"config.json", "model.safetensors", "generation_config.json"} < files
        assert {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"} < files
    assert "licence of the training text: Wikipedia, CC BY-SA 4.0\n" in card


def test_the_harness_runs_with_our_models(monkeypatch: pytest.MonkeyPatch) -> None:
    from shallower.lm_eval.__main__ import main

    called = []
    package, stand_in = (
        types.ModuleType("lm_eval"),
        types.ModuleType("lm_eval.__main__"),
    )
    stand_in.cli_evaluate = lambda: called.append(1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", package)
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", stand_in)
    monkeypatch.setattr(sys, "argv", [])
    main(["--model", "hf", "--tasks", "arc_easy"])
    assert sys.argv[1:] == ["--model", "hf", "--tasks", "arc_easy"]
    assert called
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    with pytest.raises(UserError, match="lm_eval"):
        main([])
