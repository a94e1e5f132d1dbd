"""Configurations with one value replaced: refused in a line that names the key.

Every value of every shipped configuration in turn. A few hundred replacements here;
thousands, and all of them, in `make test-faults`.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counting import Tried
from project import ROOT
from shallower.errors import UserError
from shallower.pretrained import settings as pretrained_settings
from shallower.strict import LARGEST
from shallower.study.overlays import check_file
from shallower.study.study import Study, load_study

NAN, INF = float("nan"), float("inf")
Path_ = tuple[Any, ...]
# Of other kinds than numbers, texts, lists or sections; of none.
NUMBERS = [-1, 0, 0.5, NAN, INF, -INF, 10**9, 10**30, -(10**30), 1e300, True, False]
TEXTS = ["x", "", "nan", "-1", "1e3", "../x", "a" * 5000, "\0", "a\x1b[2Jb", b"x"]
NESTED = [[], {}, [[]], {"a": {"b": 1}}, [1, 1], [None], {1: 2}, [10**9], [[[[[[1]]]]]]]
WRONG = [*NUMBERS, *TEXTS, *NESTED]
# What a number is never: of another type, negative, or beyond anything that is trained.
NO_NUMBER = [-1, NAN, INF, -INF, 10**30, -(10**30), 1e300, True, *TEXTS, *NESTED]
NO_NUMBER.remove("1e3")  # YAML's own way to read 1e-3
# What a text is never.
NO_TEXT = [*NUMBERS, *NESTED, "", "a" * 5000, "\0", b"x"]


@pytest.fixture(autouse=True)
def _read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint's header is the same each time, and takes most of a load."""
    monkeypatch.setattr(pretrained_settings, "sizes", _sizes)


_sizes = functools.cache(pretrained_settings.sizes)


def merge(base: dict, over: dict) -> dict:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        merged[key] = merge(old, value) if both else value
    return merged


@functools.cache
def shipped() -> dict[str, dict]:
    """Every shipped configuration as Snakemake reads it, by name."""
    default = yaml.safe_load((ROOT / "config.yaml").read_text())
    found = {"default": default}
    for path in sorted((ROOT / "config").glob("*.yaml")):
        stem = path.stem
        before = [b for b in ("paper", "small-gpu") if stem.startswith(f"{b}-")]
        base = default
        for name in [*before, stem]:
            overlay = (ROOT / "config" / f"{name}.yaml").read_text()
            base = merge(base, yaml.safe_load(overlay))
        if base["pretrained"] is None:  # takes out all that is about checkpoints
            for section in ("experiments", "latency"):
                given = base[section].items()
                base[section] = {k: v for k, v in given if k != "pretrained"}
        found[stem] = base
    return found


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    if path:
        yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = list(enumerate(value))[:2]  # the others are alike
    for key, each in items:
        yield from places(each, (*path, key))


@functools.cache
def all_places() -> list[tuple[str, Path_]]:
    return [(name, path) for name, each in shipped().items() for path in places(each)]


def at(configuration: Any, path: Path_) -> Any:
    for key in path:
        configuration = configuration[key]
    return configuration


def replaced(configuration: dict, path: Path_, value: Any) -> dict:
    changed = copy.deepcopy(configuration)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def plain(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for each in value:
            yield from plain(each)
    else:
        yield value


def check(name: str, path: Path_, value: Any, refused: bool) -> bool:
    """Whether it was refused; that it must be, or that what is accepted is sane."""
    changed = replaced(shipped()[name], path, value)
    key = ".".join(map(str, path))
    try:
        study = load_study(changed)
    except UserError as error:
        message = str(error)
        assert "\n" not in message, (key, value)
        assert len(message) < 1000, (key, value)
        # The key, or another one that no longer fits to it: a contrast's model.
        names = [str(part) for part in path if isinstance(part, str)][-2:]
        names += ["contrasts.", "experiments: ", "training.overrides."]
        assert any(part in message for part in names), (key, value, message)
        return True
    assert not refused, f"{key}: {value!r} was accepted"
    written = json.loads(study.model_dump_json())
    assert Study.model_validate(written) == study, (key, value)
    for each in plain(written):
        if isinstance(each, int | float):
            assert math.isfinite(each), (key, value)
            assert abs(each) <= LARGEST, (key, value)
    return False


def never(original: Any) -> list[Any]:
    """What a value must not be replaced by."""
    if isinstance(original, bool):
        return [NAN, 10**30, "x", *NESTED]
    if isinstance(original, int | float):
        return NO_NUMBER
    if isinstance(original, str):
        return NO_TEXT
    if original is None:  # of anything that may be left out
        return [NAN, 10**30, -1, "\0", b"x"]
    other = [NAN, 10**30, -1, "x", "\0", True]
    return other + ([{"a": {"b": 1}}] if isinstance(original, list) else [[1, 1]])


@settings(max_examples=150)
@given(st.data())
def test_wrong_values_are_refused(data: st.DataObject) -> None:
    name, path = data.draw(st.sampled_from(all_places()))
    value = data.draw(st.sampled_from(never(at(shipped()[name], path))))
    check(name, path, value, refused=True)


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_value_is_refused_or_sane(data: st.DataObject) -> None:
    any_plain = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=4,
    )
    name, path = data.draw(st.sampled_from(all_places()))
    check(name, path, data.draw(any_plain), refused=False)


@settings(max_examples=40)
@given(st.data())
def test_unknown_keys_are_refused(data: st.DataObject) -> None:
    sections = [
        (name, path)
        for name, path in all_places()
        if isinstance(at(shipped()[name], path), dict)
        # There people choose the keys: names of models, of sizes.
        and path[-1] not in ("overrides", "models", "sizes", "columns")
    ]
    name, path = data.draw(st.sampled_from(sections))
    with pytest.raises(UserError, match=r"unknwon|no such option"):
        load_study(replaced(shipped()[name], (*path, "unknwon"), 1))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_replacement(name: str, tried: Tried) -> None:
    """Every value by everything: some 60,000 replacements."""
    replacements = refused = 0
    for path in places(shipped()[name]):
        original = at(shipped()[name], path)
        due = [(type(value), repr(value)) for value in never(original)]
        for value in [*WRONG, None]:
            must = (type(value), repr(value)) in due
            refused += check(name, path, value, must)
            replacements += 1
    what = "a value of a shipped configuration replaced"
    tried(what, refused, "refused in one line that names a key")
    tried(what, replacements - refused, "valid, and taken")


# --- those that were accepted once ----------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("t5.pretraining.steps", "x"),
        ("t5.pretraining.weight_decay", NAN),
        ("t5.finetuning.batch_size", NAN),
        ("t5.finetuning.schedule", "x"),
        ("tuning.training.learning_rate", -1),
        ("tuning.training.warmup_fraction", "x"),
        ("original.vocabulary", -1),
        ("original.depths", [-1, 5]),
        ("experiments.budget.0.options.steps", [-1]),
        ("experiments.budget.0.options.steps", [2.5]),
        ("experiments.head.0.depths", [10**9]),
        ("experiments.ffn.1.options", {"ratio": [-1.0]}),
        ("experiments.distillation.0.options.alpha", [2]),
        ("experiments.skip.1.options.healed", [-0.5]),
        ("experiments.skip.0.options.skip", ["attention.last.1"] * 2),
        ("corpus.text.source", []),
        ("corpus.text.source", {}),
    ],
)
def test_once_accepted(path: str, value: Any) -> None:
    keys = tuple(int(key) if key.isdigit() else key for key in path.split("."))
    check("smoke", keys, value, refused=True)


def test_a_model_that_cannot_be_built_is_named() -> None:
    """Each value is fine by itself."""
    grid = {"variants": ["baseline"], "depths": [1], "options": {"heads": [5]}}
    changed = replaced(shipped()["smoke"], ("experiments", "ffn"), [grid])
    with pytest.raises(
        UserError, match=r"experiments: baseline-1__heads=5: .*width 32"
    ):
        load_study(changed)


def test_endless_grids_take_neither_memory_nor_time() -> None:
    """A thousand times a thousand times a thousand models are counted, not named."""
    many = [number / 1e6 for number in range(1, 1001)]
    grid = {"variants": ["baseline"], "depths": list(range(1, 1000))}
    grid |= {"options": {"lr": many, "init_std": many, "skip": ["attention.last.1"]}}
    changed = replaced(shipped()["smoke"], ("experiments", "skip"), [grid])
    code = (
        "import json, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (800 * 2**20,) * 2)\n"
        "from shallower.study.study import load_study\n"
        "load_study(json.load(sys.stdin))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(changed),
        capture_output=True,
        text=True,
        timeout=120,
    )
    reason = run.stderr.splitlines()[-1]
    assert "skip.0: 999000013 models" in reason, run.stderr[-500:]


NOT_DEPTH = (
    *("head", "learning_rate", "budget", "ffn", "distillation"),
    *("t5", "skip", "elimination", "combined"),
)
EXTREMES: dict[str, Any] = {
    "corpus": {"qa": None, "chat": None, "pairs": None, "completion": {"items": 1}},
    "model": {"heads": 1},
    "experiments": {
        **{name: [] for name in NOT_DEPTH},
        "depth": [{"variants": ["baseline", "proposed"], "depths": [1, 2]}],
        "seeds": [0],
    },
    "contrasts": [],
    "training": {"steps": 2, "batch_size": 1},
    "evaluation": {"documents": 1, "windows": 1, "new_tokens": 1, "samples_kept": 0},
    "latency": {"sessions": 1, "prompts": 1, "uncached_repeats": 0},
}


def test_valid_extremes_are_accepted() -> None:
    """One seed, one head, one layer, one session, one document."""
    changed = merge(shipped()["smoke"], EXTREMES)
    changed["evaluation"]["intervention_sets"] = []
    study = load_study(changed)
    assert study.runs == [
        *(("baseline-1", 0), ("baseline-2", 0), ("proposed-1", 0), ("proposed-2", 0)),
    ]
    assert list(study.corpus.sets) == ["completion"]
    assert "qa" not in study.scored_on("baseline-1", 0)


def test_a_set_that_is_null_is_not_asked_for() -> None:
    changed = merge(shipped()["smoke"], {"corpus": {"completion": None}})
    with pytest.raises(
        UserError, match=r"intervention_sets: corpus\.completion is null"
    ):
        load_study(changed)
    with pytest.raises(UserError, match=r"corpus\.pairs: missing, experiments\.t5"):
        load_study(merge(shipped()["smoke"], {"corpus": {"pairs": None}}))


# --- the files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, d: 2, c: 3}\n", "line 2: the key 'c' is there twice"),
        ("a: !!python/object/apply:os.system [touch pwned]\n", "not YAML of plain"),
        ("__use_yte__: true\na: ?open('pwned', 'w')\n", "runs code"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a:\t- b\n  c", "not YAML"),
        ("a: \udcff", "not YAML"),
        ("", "expected sections"),
        ("- a\n", "expected sections"),
        ("a: &a [1, 2]\n" + "b: " + "[" + "*a, " * 60_000 + "]", "aliases resolved"),
        ("x" * 1_000_001, "larger than"),
    ],
)
def test_bad_files_are_one_line(
    text: str, message: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message) as caught:
        check_file(path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]  # nothing was run


def test_a_missing_file_is_one_line(tmp_path: Any) -> None:
    command = [sys.executable, "-m", "shallower.study.overlays", "nowhere.yaml"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == "configuration: nowhere.yaml: no such configuration file\n"


def test_shipped_files_are_fine() -> None:
    for path in [ROOT / "config.yaml", *(ROOT / "config").glob("*.yaml")]:
        check_file(path)
