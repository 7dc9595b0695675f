"""An evaluation and its scores that are cut at any moment end like unbroken ones, and answer no whole batch twice."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from chexreason import runs
from chexreason.build.data import build_manifests
from chexreason.cli.evaluate import evaluate
from chexreason.cli.scores import score_labels
from chexreason.data import manifest
from chexreason.data.prepare import MANIFEST_NAME
from chexreason.model import generate, label_scores
from chexreason.statistics.partial import Partial, holds_batch, partial_path
from tests.support.configs import composed

SETTINGS = [
    "data.sets.phantom_a.source.n={sft: 4, rl: 0, val: 2, test: 8}",
    "data.sets.phantom_b.source.n={val: 2, test: 8}",
    "name=demo",
    "prompt=only_label",  # short answers that are not all broken
    "batch_size=3",
    "max_new_tokens=12",
]
VERBS = {"evaluate": (evaluate, "eval", "predictions"), "scores": (score_labels, "scores", "scores")}
BATCHES = 6  # three of each hospital
CUTS = {  # what a kill or a disk may leave of the lines of the file, and how many of its batches are whole
    "nothing": (lambda lines: [], 0),
    "half a header": (lambda lines: [lines[0][:20]], 0),
    "a header": (lambda lines: lines[:1], 0),
    "a torn line": (lambda lines: [*lines[:3], lines[3][:-30]], 2),
    "no last line end": (lambda lines: [*lines[:-1], lines[-1][:-1]], BATCHES),
    "zeros at the end": (lambda lines: [*lines[:3], bytes(500)], 2),
    "a flipped bit": (lambda lines: [*lines[:2], lines[2].replace(b"phantom", b"qhantom"), *lines[3:]], 1),
    "a damaged header": (lambda lines: [bytes(9) + lines[0][9:], *lines[1:]], BATCHES),
    "a lost line": (lambda lines: [*lines[:2], *lines[3:]], 1),
    "everything": (lambda lines: lines, BATCHES),
}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Both hospitals prepared; an unbroken evaluation and its scores, each beside the batches it was made of."""
    folder = tmp_path_factory.mktemp("out")
    build_manifests(composed("prepare", f"paths.out={folder}", *SETTINGS[:3]), on_error="stop", workers=1)
    done = runs.mark_done
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "mark_done", lambda run_dir, result: (keep(run_dir), done(run_dir, result)))
        for verb in VERBS:
            run(folder, verb)
    return folder


def keep(run_dir: Path) -> None:
    """Copy the batches of a run that is about to be done."""
    for path in run_dir.glob("*.partial.jsonl"):
        shutil.copy(path, f"{path}.kept")


def configured(out: Path, verb: str, *more: str):
    return composed(verb, f"paths.out={out}", *SETTINGS, *(["samples=2"] if verb == "scores" else []), *more)


def run(out: Path, verb: str, *more: str) -> None:
    VERBS[verb][0](configured(out, verb, *more))


def result(folder: Path) -> list[object]:
    done = json.loads((folder / "DONE").read_text())
    del done["sha256"], done["files"]["config.yaml"]  # it names the run directory
    if (table := folder / "scores.parquet").is_file():
        return [pd.read_parquet(table).to_csv(), done]
    return [*((folder / name).read_bytes() for name in ("predictions.jsonl", "metrics.json")), done]


@pytest.fixture
def answered(monkeypatch) -> list[int]:
    """One entry for each batch that the model answers or scores."""
    seen: list[int] = []
    for module, name in ((generate, "predict_batch"), (label_scores, "label_log_odds")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, **k: (seen.append(1), real(*a, **k))[1])
    return seen


@pytest.mark.parametrize("cut", CUTS)
def test_batches_that_are_whole_are_read_back_and_others_are_added_anew(tmp_path, cut):
    result, made_with = tmp_path / "scores.parquet", {"config": "a", "data": {"set": "b"}}
    batches = [[{"study_id": f"phantom{i}", "text": "\ud800 é", "odds": math.pi * 10.0**-i}] for i in range(BATCHES)]
    first = Partial(result, made_with)
    assert [first.batch(lambda rows=rows: rows) for rows in batches] == batches
    path = partial_path(result)
    text, (change, n) = path.read_bytes(), CUTS[cut]
    path.write_bytes(b"".join(change(text.splitlines(keepends=True))))
    again = Partial(result, made_with)
    assert len(again.ahead) == n
    assert [again.batch(lambda rows=rows: rows) for rows in batches] == batches
    assert path.read_bytes() == text
    with pytest.raises(ValueError, match=r"data: \{'set': 'b'\} -> 'c'\): undo the change, or say restart=true"):
        Partial(result, made_with | {"data": "c"})


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["a torn line", "everything"])
@pytest.mark.parametrize("verb", VERBS)
def test_whatever_a_kill_leaves_the_end_is_the_same(out, tmp_path, answered, verb, cut):
    _, place, stem = VERBS[verb]
    whole, folder = out / "demo" / place / "base", tmp_path / "run"
    change, n = CUTS[cut]
    folder.mkdir()
    shutil.copy(whole / "config.yaml", folder)
    lines = (whole / f"{stem}.partial.jsonl.kept").read_bytes().splitlines(keepends=True)
    (folder / f"{stem}.partial.jsonl").write_bytes(b"".join(change(lines)))
    if cut == "everything":  # killed after the files were written and before DONE
        for path in (whole / name for name in ("predictions.jsonl", "metrics.json", "scores.parquet")):
            shutil.copy(path, folder) if path.is_file() else None
    run(out, verb, f"run_dir={folder}")
    assert len(answered) == BATCHES - n
    assert result(folder) == result(whole)
    assert not (folder / f"{stem}.partial.jsonl").exists()


@pytest.mark.slow
def test_a_done_run_is_read_back_and_its_batches_go(out, tmp_path, answered):
    shutil.copytree(out / "demo" / "eval" / "base", tmp_path / "run")
    left = shutil.copy(tmp_path / "run/predictions.partial.jsonl.kept", tmp_path / "run/predictions.partial.jsonl")
    assert holds_batch(tmp_path / "run" / "predictions.partial.jsonl")
    found = evaluate(configured(out, "evaluate", f"run_dir={tmp_path / 'run'}"))
    assert len({p.text for p in found}) > 3  # answers worth comparing
    assert not answered
    assert not left.exists()


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_batches_of_other_data_are_refused_and_no_batch_is_no_obstacle(out, tmp_path, verb):
    place, stem = VERBS[verb][1:]
    text = (out / "demo" / place / "base" / f"{stem}.partial.jsonl.kept").read_bytes()
    data = tmp_path / "data"
    shutil.copytree(out / "data", data)
    path = next(data.rglob("phantom_b")) / MANIFEST_NAME
    found = manifest.read_manifest(path)
    frame = found.frame.assign(Edema=1 - found.frame["Edema"].clip(lower=0))
    manifest.write_manifest(manifest.Manifest(frame, found.provenance, found.root), path)
    kept = tmp_path / "run" / f"{stem}.partial.jsonl"
    kept.parent.mkdir()
    shutil.copy(out / "demo" / place / "base" / "config.yaml", kept.parent)
    kept.write_bytes(text)
    with pytest.raises(ValueError, match=r"partial.jsonl holds batches .*'data_sha256': '\w{16}'.*restart=true"):
        run(out, verb, f"paths.data={data}", f"run_dir={kept.parent}")
    assert kept.read_bytes() == text
    kept.write_bytes(text[: text.index(b"\n") + 90])
    run(out, verb, f"paths.data={data}", f"run_dir={kept.parent}")
