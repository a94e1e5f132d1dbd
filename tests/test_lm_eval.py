"""lm-evaluation-harness on checkpoints under interventions, against its own `hf`."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoint_folder import article, save_checkpoint, save_documents
from conftest import run_spec
from models_for_tests import tiny
from runs_for_tests import write_run
from shallower.errors import UserError
from shallower.files import read_json
from shallower.interventions.calibration import importance
from shallower.interventions.forward import continuation_features
from shallower.pretrained.checkpoint import open_model
from shallower.pretrained.vocabulary import open_tokenizer
from test_pretrained_quality import scores

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="`make test` installs lm_eval"
)
# Of three blocks the second eliminates, and the third attends to what is left.
BOTH = "skip=attention.first.1__eliminate=linear.1.5"
METRICS = {"choices": "acc", "answers": "bypass", "texts": "word_perplexity"}
KINDS = {"grouped": False, "plain": True}  # whether the tokenizer puts BOS first


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, a corpus, and tasks of three kinds with their documents."""
    folder = tmp_path_factory.mktemp("lm_eval")
    for kind, bos in KINDS.items():
        save_checkpoint(folder / kind, kind, bos)
    save_documents(folder / "corpus")
    rows = []
    for n in range(8):
        words = article(n).split()
        # The context is 64 tokens: some prompts are longer and lose their beginning.
        prompt, choices = words[: 6 + 9 * n], [words[i : i + 2] for i in (70, 75, 80)]
        row = {"prompt": " ".join(prompt), "choices": [" ".join(c) for c in choices]}
        rows.append(row | {"answer": n % 3, "text": " ".join(words[: 12 * n + 1])})
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task("choices", data, doc_to_choice="choices", output_type="multiple_choice")
    how = {"until": ["t", "\n"], "max_gen_toks": 12, "do_sample": False}
    task("answers", data, output_type="generate_until", generation_kwargs=how)
    task("texts", data, output_type="loglikelihood_rolling")
    return folder


def task(name: str, data: Path, **settings: Any) -> None:
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(data.parent / "cache"),
        },
        "test_split": "test",
        "doc_to_text": "" if name == "texts" else "{{prompt}}",
        "doc_to_target": {"choices": "answer", "texts": "text"}.get(name, "prompt"),
        "metric_list": [{"metric": METRICS[name]}],
    }
    (data.parent / f"{name}.yaml").write_text(yaml.safe_dump(content | settings))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def run(model: Any, folder: Path, *tasks: str) -> dict[str, Any]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model=model,
        tasks=list(tasks or METRICS),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    assert found is not None
    return found


def responses(found: dict[str, Any], name: str) -> list[Any]:
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"] for sample in samples]


def ours(checkpoint: Path, intervention: str = "", **settings: Any) -> Any:
    from shallower.lm_eval.model import InterventionLM

    settings = {"precision": "float32", "device": "cpu", "batch_size": 3} | settings
    return InterventionLM(str(checkpoint), intervention, **settings)


def theirs(checkpoint: Path, without_attention: int | None = None) -> Any:
    """The harness's own model, a block's attention hooked to give zeros."""
    from lm_eval.models.huggingface import HFLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    if without_attention is not None:
        attention = model.model.layers[without_attention].self_attn
        attention.register_forward_hook(lambda m, i, out: (out[0] * 0, *out[1:]))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    # The default configuration of a Llama names another token than the tokenizer.
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=4)


@pytest.mark.parametrize(("kind", "skipped"), [("grouped", 2), ("plain", None)])
def test_what_the_harness_finds_is_what_it_finds_with_transformers(
    kind: str, skipped: int | None, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    intervention = "" if skipped is None else f"skip=attention.only{skipped}.1"
    found = run(ours(folder / kind, intervention), folder)
    # Of the last document, 3 choices behind a prompt that is too long.
    assert "3 contexts do not fit into 64 tokens" in caplog.text
    due = run(theirs(folder / kind, skipped), folder, "choices", "answers")
    for mine, other in zip(
        responses(found, "choices"), responses(due, "choices"), strict=True
    ):
        for (nats, greedy), (due_nats, due_greedy) in zip(mine, other, strict=True):
            assert nats == pytest.approx(due_nats, abs=1e-3)
            assert greedy == due_greedy
    accuracy = found["results"]["choices"]["acc,none"]
    assert accuracy == due["results"]["choices"]["acc,none"]
    assert responses(found, "answers") == responses(due, "answers")
    whole = theirs(folder / kind, skipped)
    whole.add_bos_token = False  # it would else stand twice before a text
    due = run(whole, folder, "texts")["results"]["texts"]
    perplexity = found["results"]["texts"]["word_perplexity,none"]
    assert perplexity == pytest.approx(due["word_perplexity,none"], rel=1e-4)


def test_with_elimination_it_is_that_of_our_forward_pass(folder: Path) -> None:
    """The oracle goes through prompt and choice anew for each choice."""
    checkpoint = folder / "plain"
    model = ours(checkpoint, BOTH, prompt_tokens=32)
    skipped = ours(checkpoint, BOTH.partition("__")[0])
    found, plain = (run(each, folder, "choices") for each in (model, skipped))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    for sample in found["samples"]["choices"]:
        for choice, (nats, greedy) in zip(
            sample["doc"]["choices"], sample["filtered_resps"], strict=True
        ):
            prompt = tokenizer(sample["doc"]["prompt"]).input_ids
            whole = tokenizer(sample["doc"]["prompt"] + " " + choice).input_ids
            ending = whole[len(prompt) :]
            prompt = prompt[-(65 - len(ending)) :]
            ids = torch.tensor([[*prompt, *ending[:-1]]])
            what = ids, len(prompt), model.choice.elimination
            with torch.no_grad():
                states = continuation_features(model.model, *what)
                logits = model.model.head(states)[0]
            due = logits.log_softmax(-1).gather(1, torch.tensor(ending)[:, None])
            assert nats == pytest.approx(due.sum().item(), abs=1e-4)
            assert greedy == (logits.argmax(-1).tolist() == ending)
    last, without = (responses(each, "choices")[-1] for each in (found, plain))
    assert all(abs(a[0] - b[0]) > 0.002 for a, b in zip(last, without, strict=True))
    # Answers are those of a model that is asked without a batch.
    alone = ours(checkpoint, BOTH, prompt_tokens=32, batch_size=1)
    both = [responses(run(m, folder, "answers"), "answers") for m in (model, alone)]
    assert both[0] == both[1]
    assert both[0] != responses(run(skipped, folder, "answers"), "answers")


def test_a_run_of_a_study(corpus: Path, folder: Path, tmp_path: Path) -> None:
    seed = tmp_path / "runs" / "proposed-2" / "seed0"
    network = tiny("proposed")
    write_run(seed, run_spec("proposed", 3, 3, model=network))
    (tmp_path / "tokens").symlink_to(corpus)
    model = ours(seed)
    found = run(model, folder, "choices")
    sample = found["samples"]["choices"][0]
    tokenizer = model.text
    prompt = [tokenizer.bos, *tokenizer.encode(sample["doc"]["prompt"])]
    for choice, (nats, _) in zip(
        sample["doc"]["choices"], sample["filtered_resps"], strict=True
    ):
        whole = tokenizer.encode(sample["doc"]["prompt"] + " " + choice)
        ids = torch.tensor([[tokenizer.bos, *whole]])
        with torch.no_grad():
            shares = model.model(ids).log_softmax(-1)[0]
        places = range(len(prompt) - 1, ids.shape[1] - 1)
        due = sum(shares[i, ids[0, i + 1]].item() for i in places)
        assert nats == pytest.approx(due, abs=1e-4)


# --- interventions that are chosen by text --------------------------------------------


def test_a_corpus_gives_what_the_study_chooses(folder: Path, tmp_path: Path) -> None:
    for name in ("corpus", "grouped"):
        target = "checkpoint" if name == "grouped" else name
        (tmp_path / target).symlink_to(folder / name)
    sizes = {"prompt_tokens": 24, "scored_tokens": 40, "calibration_documents": 4}
    asked = [
        {"skip": "block.greedy.2"},
        {"skip": "ffn.cosine.1", "eliminate": "acc.1.2"},
    ]
    _, facts = scores(
        tmp_path, **sizes, batch_size=6, ranking_window=32, interventions=asked
    )
    assert len(facts["interventions"]) == 2
    for text, due in facts["interventions"].items():
        settings = {"calibration": str(folder / "corpus"), "prompt_tokens": 24}
        chosen = ours(folder / "grouped", text, **settings).choice.to_json()
        assert chosen["skip"] == due["skip"]
        assert chosen["elimination"] == due["elimination"]


def test_a_text_file_is_cut_into_windows(folder: Path, tmp_path: Path) -> None:
    text, checkpoint = tmp_path / "text.txt", folder / "plain"
    text.write_text(" ".join(article(n) for n in range(3)))
    how = {"calibration": str(text), "prompt_tokens": 16}
    model = ours(checkpoint, "skip=block.cosine.1", **how)
    ids = open_tokenizer(checkpoint).encode(text.read_text())
    windows = [[0, *ids[i : i + 63]] for i in range(0, len(ids) - 62, 63)][:8]
    assert len(windows) > 2
    turned = importance(open_model(checkpoint), torch.tensor(windows)[:, :-1]).block
    least = min(range(3), key=turned.__getitem__)
    assert model.choice.skip.attention == model.choice.skip.ffn == (least,)


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("intervention", "settings", "message"),
    [
        ("attention.last.1", {}, "expected skip=<skip>"),
        ("skip=attention.last.9", {}, "9 blocks to skip: expected 0 to 3"),
        ("eliminate=acc.1.5", {"prompt_tokens": 24}, "--calibration: not given"),
        ("skip=ffn.greedy.1", {"prompt_tokens": 64}, "expected fewer than the 64"),
        (
            "eliminate=acc.1.5",
            {"calibration": "nowhere", "prompt_tokens": 9},
            "nowhere",
        ),
        (
            "eliminate=acc.1.5",
            {"calibration": "short", "prompt_tokens": 9},
            "has 2 tok",
        ),
    ],
)
def test_interventions_that_are_refused(
    intervention: str,
    settings: dict[str, Any],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("the cat")
    with pytest.raises(UserError, match=message):
        ours(folder / "grouped", intervention, **settings)


def test_tasks_that_are_refused(folder: Path) -> None:
    model = ours(folder / "grouped", "eliminate=linear.1.5", prompt_tokens=32)
    with pytest.raises(UserError, match="has no prompt to eliminate"):
        run(model, folder, "texts")
    for how, message in (
        ({"do_sample": True, "temperature": 0.7}, "expected greedy answers"),
        ({"max_gen_toks": 64}, "answers of 64 tokens, expected fewer"),
    ):
        with pytest.raises(UserError, match=message):
            model.generate_until([Asked("the cat", how)])
    with pytest.raises(UserError, match="a continuation of 65 tokens"):
        model.loglikelihood([Asked("the cat", "é" * 32 + "!")])
    with pytest.raises(UserError, match="--apply_chat_template"):
        model.chat_template(True)


class Asked:
    """A request of the harness."""

    def __init__(self, *args: Any) -> None:
        self.args = args


# --- the command ----------------------------------------------------------------------


@pytest.mark.slow  # the harness reads the descriptions of all its tasks
def test_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from shallower.lm_eval.__main__ import main

    monkeypatch.setattr(sys, "argv", [])
    chosen = ["--checkpoint", str(folder / "plain"), "--intervention", BOTH]
    chosen += ["--precision", "float32", "--prompt_tokens", "32", "--device", "cpu"]
    how = ["--include_path", str(folder), "--tasks", "choices", "--limit", "5"]
    main([*chosen, *how, "--output_path", str(tmp_path / "results.json")])
    assert "|choices|" in capsys.readouterr().out
    (written,) = tmp_path.glob("results_*.json")
    results = read_json(written)
    model = ours(folder / "plain", BOTH, prompt_tokens=32)
    assert results["config"]["model_args"]["intervention"] == BOTH
    assert results["config"]["chosen"] == model.choice.to_json()
    due = run(model, folder, "choices")["samples"]["choices"]
    right = [sample["acc"] for sample in due if sample["doc_id"] < 5]
    assert results["results"]["choices"]["acc,none"] == sum(right) / 5
    assert results["n-samples"]["choices"]["effective"] == 5
