"""Predictions of another tool as an arm: the figures they give, and every file that is refused with its rows."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig

from chexreason import runs
from chexreason.build.data import build_labels, load_studies
from chexreason.cli.adopt import adopt
from chexreason.cli.evaluate import declared
from chexreason.cli.tables import tables
from chexreason.data.manifest import Manifest, write_manifest
from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.parsing import AnswerFormat, format_answer
from chexreason.statistics.adopted import read_adopted
from chexreason.statistics.predictions import read_predictions, to_prediction, write_predictions
from chexreason.statistics.score_files import aligned, read_scores
from chexreason.types import Completion
from tests.support.configs import composed
from tests.support.manifests import manifest_rows

N = 12  # studies of each hospital


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two prepared hospitals; the second judges nine labels, and both have a film 3.png in a folder of its own."""
    for name, labels in (("phantom_a", CHEXPERT14), ("phantom_b", NIH9)):
        marks = {label: [float((i + k) % 3 == 0) for i in range(N)] for k, label in enumerate(labels)}
        marks |= dict.fromkeys(set(CHEXPERT14) - set(labels), [math.nan] * N)
        paths = [f"{name}/{i}.png" if i == 3 else f"{name}-{i}.png" for i in range(N)]
        frame = manifest_rows(name, N, path=paths, **marks)
        manifest = Manifest(frame, {"source": "table", "public": True}, tmp_path / "films")
        write_manifest(manifest, tmp_path / f"data/phantom/{name}/manifest.parquet")
    return tmp_path


def configured(out: Path, file: Path, *words: str) -> DictConfig:
    return composed(
        "adopt", f"paths.out={out}", f"paths.data={out}/data", "name=x", "arm=theirs", f"file={file}", *words
    )


def asked(out: Path, *words: str):
    cfg = configured(out, out / "none", *words)
    return [study for name in cfg.data.test for study in load_studies(cfg, name, ("test",), build_labels(cfg))]


def answered(out: Path) -> list:
    """Answers as an evaluation of ours writes them: some wrong, some with unknown items, one broken."""
    origin, rows = declared(configured(out, out / "none"), ["phantom_a", "phantom_b"]), []
    ours = AnswerFormat(CHEXPERT14, "think_solution")
    for n, study in enumerate(asked(out)):
        named = [label for k, label in enumerate(CHEXPERT14) if (n * k) % 5 == 1] or ["No Finding"]
        text = format_answer("x", named).replace("Edema", "Œdema\u2028") if n != 5 else "nothing\r\n at all"
        completion = Completion(study.study_id, text, ours.parse(text), 7 + n)
        rows.append(replace(to_prediction(study, completion, CHEXPERT14), **origin[study.dataset]))
    return rows


def written(file: Path, rows: list[dict]) -> Path:
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
    return file


def probable(study, **given) -> dict:
    """A row of probabilities that depend on the study alone."""
    number = int(study.study_id.partition(":")[2])
    shares = {label: (number * 7 + k * 5) % 11 / 10.5 for k, label in enumerate(CHEXPERT14)}
    return {"study_id": study.study_id} | shares | given


def test_an_adopted_copy_gives_the_figures_of_the_arm_to_the_last_digit(out):
    rows = answered(out)
    for file in ("predictions.jsonl", "theirs.csv"):
        if file.endswith("csv"):  # in any order, by another way to name a film, and without what only we know
            kept = [
                {
                    "image": f"/elsewhere/{Path(p.image).relative_to(out / 'films')}",
                    "text": p.text,
                    "tokens": p.n_tokens,
                }
                for p in rows
            ]
            written(out / file, kept[::-1])
        else:
            write_predictions(out / file, rows)
        found = adopt(configured(out, out / file, f"arm={Path(file).stem}"))
        folder = out / f"x/eval/{Path(file).stem}"
        if file.endswith("jsonl"):
            assert (folder / runs.PREDICTIONS).read_bytes() == (out / file).read_bytes()
        assert [(p.study_id, p.predicted, p.named, p.unknown, p.broken, p.n_tokens) for p in found] == [
            (p.study_id, p.predicted, p.named, p.unknown, p.broken, p.n_tokens) for p in rows
        ]
        assert runs.read_done(folder)["studies"] == 2 * N
    metrics = [json.loads((out / f"x/eval/{arm}" / runs.METRICS).read_text()) for arm in ("predictions", "theirs")]
    assert metrics[0] == metrics[1]
    assert 0 < metrics[0]["phantom_a"]["macro_f1"] < 1


def test_the_pages_take_an_adopted_arm_as_they_take_any(out):
    written(out / "p.csv", [probable(study) for study in asked(out)])
    write_predictions(out / "ours.jsonl", answered(out))
    adopt(configured(out, out / "p.csv"))
    adopt(configured(out, out / "ours.jsonl", "arm=ours"))
    words = [f"paths.out={out}", f"paths.data={out}/data", "name=x", "arms=[theirs,ours]", "n_resamples=20"]
    for table in ("transfer", "ranking"):
        tables(composed("tables", *words, "n_permutations=20", f"table={table}", "scores=log_odds"))
        page = (out / f"x/results/{table}.md").read_text()
        assert "| theirs |" in page
    assert "not recorded" not in page


def test_probabilities_become_log_odds_and_the_labels_above_the_cut(out):
    studies = asked(out)
    rows = [probable(study) for study in studies]
    rows[0] |= {"Edema": 0.0, "Fracture": 1.0}
    found = adopt(configured(out, written(out / "p.csv", rows), "cut=0.4", "clip=0.001"))
    frame = read_scores(out / "x/scores/theirs/scores.parquet")
    odds = aligned(frame, found, list(CHEXPERT14), "log_odds")
    wanted = pd.DataFrame(rows)[list(CHEXPERT14)].to_numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), wanted.clip(0.001, 0.999), atol=1e-12)
    for prediction, share in zip(found, wanted, strict=True):
        assert prediction.named == tuple(label for label, p in zip(CHEXPERT14, share, strict=True) if p >= 0.4)
        assert prediction.broken is None
    nested = [{"study_id": int(row.pop("study_id").partition(":")[2]), "probabilities": row} for row in map(dict, rows)]
    only = [f"{word}" for word in ("data.test=[phantom_a]", "arm=nested", "cut=0.4", "clip=0.001")]
    again = adopt(configured(out, written(out / "p.jsonl", nested[:N]), *only))  # ids without their set
    assert again == found[:N]
    pd.testing.assert_frame_equal(read_scores(out / "x/scores/nested/scores.parquet"), frame[:N])


def test_labels_and_tables_of_zeros_and_ones_name_labels_and_score_none(out):
    studies = asked(out)
    truth = [[label for label, on in zip(CHEXPERT14, study.target, strict=True) if on] for study in studies]
    listed = [
        {"study_id": s.study_id, "labels": "; ".join(names).lower()} for s, names in zip(studies, truth, strict=True)
    ]
    marked = [
        {"study_id": s.study_id} | {label: int(label in names) for label in CHEXPERT14}
        for s, names in zip(studies, truth, strict=True)
    ]
    for arm, rows in (("listed", listed), ("marked", marked)):
        found = adopt(configured(out, written(out / f"{arm}.csv", rows), f"arm={arm}"))
        assert [list(p.named) for p in found] == truth
        assert [p.broken for p in found] == [None] * len(truth)
        assert json.loads((out / f"x/eval/{arm}/metrics.json").read_text())["phantom_a"]["macro_f1_supported"] == 1.0
        assert not (out / f"x/scores/{arm}").exists()


def test_the_same_command_again_changes_nothing_and_another_file_is_refused(out):
    rows = [probable(study) for study in asked(out)]
    file = written(out / "p.csv", rows)
    adopt(configured(out, file))
    before = {
        path: path.read_bytes()
        for path in (out / "x").rglob("*.*")
        if path.name not in ("stage.json", "attempts.jsonl")
    }
    adopt(configured(out, file))
    assert before == {path: path.read_bytes() for path in before}
    rows[0]["Edema"] = 0.123
    written(file, rows)
    with pytest.raises(runs.RunError, match=r"was made of other answers: choose another arm=, or restart=true"):
        adopt(configured(out, file))
    adopt(configured(out, file, "restart=true"))
    assert read_scores(out / "x/scores/theirs/scores.parquet").Edema[0] == pytest.approx(math.log(0.123 / 0.877))
    (out / "x/scores/theirs/DONE").unlink()  # killed between the two folders
    adopt(configured(out, file))
    assert runs.is_done(out / "x/scores/theirs")


def spoilt(case: str, rows: list[dict]) -> list[dict]:
    """Rows of probabilities with one fault."""
    row, alone = rows[3], {key: rows[3][key] for key in ("study_id",)}
    changed = {
        "nan": [row | {"Edema": math.nan}],
        "above": [row | {"Edema": 1.5}],
        "below": [row | {"Edema": -0.1}],
        "word": [row | {"Edema": "0,5"}],
        "true": [row | {"Edema": True}],
        "no label": [{key: value for key, value in row.items() if key != "Edema"}],
        "foreign": [row | {"study_id": "phantom_a:99"}],
        "nameless": [row | {"study_id": ""}],
        "twice": [row, row],
        "two films": [{"image": "3.png"} | {key: row[key] for key in CHEXPERT14}],
        "both": [row | {"text": "x"}],
        "neither": [alone],
    }
    return [*rows[:3], *changed[case], *rows[4:]] if case != "half" else rows[:N]


CASES = {
    "nan": r"1 rows with a probability outside 0\.\.1, in line \d \(Edema = ('nan'|nan)\)",
    "above": r"outside 0\.\.1, in line \d \(Edema = '?1\.5",
    "below": r"outside 0\.\.1, in line \d \(Edema = '?-0\.1",
    "word": r"outside 0\.\.1, in line \d \(Edema = '0,5'\)",
    "true": r"outside 0\.\.1, in line \d \(Edema = '?True",
    "no label": r"(without a probability of some labels .*\(Edema\)|Edema = '')",
    "foreign": r"1 rows of no study that is asked for, in line \d \('phantom_a:99'\).*\n.*1 of 24 studies have no row",
    "nameless": r"1 rows with neither a study_id nor an image, in line \d",
    "twice": r"1 rows of a study that line (4|5) predicts, in line (5|6) \('phantom_a:3'\)",
    "two films": r"of two films or more, in line \d \('3\.png': phantom_a:3, phantom_b:3\)",
    "both": r"(give one of text, labels and probabilities, the same in all rows; found .*text and prob)",
    "neither": r"(found none of them \| probabilities|Atelectasis = '')",
    "half": r"12 of 24 studies have no row: phantom_b:0, phantom_b:1, phantom_b:2 and 9 more; .*data\.test=\[\.\.\.\]",
}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("case", CASES)
def test_a_file_with_a_fault_is_refused_with_its_row_and_nothing_is_written(case, kind, out):
    rows = spoilt(case, [probable(study) for study in asked(out)])
    if kind == "jsonl":
        own = [{key: value for key, value in row.items() if key not in CHEXPERT14.labels} for row in rows]
        shares = [{key: row[key] for key in CHEXPERT14 if key in row} for row in rows]
        rows = [row | ({"probabilities": share} if share else {}) for row, share in zip(own, shares, strict=True)]
    with pytest.raises(ValueError, match=CASES[case]) as raised:
        adopt(configured(out, written(out / f"p.{kind}", rows)))
    assert "nothing was written" in str(raised.value)
    assert not (out / "x").exists()


def test_further_faults_and_the_ways_out_that_are_printed(out):
    rows = [{"study_id": study.study_id, "labels": "Edema"} for study in asked(out)]
    faults = {
        "unknown label": [rows[0] | {"labels": "Edema, Oedema"}, *rows[1:]],
        "line 2 to 2": "study_id,labels\nphantom_a:0\n",
        "no JSON object in line 2": '{"study_id": "phantom_a:0"}\n[1]\n',
        "more than one column 'labels': leave one": "study_id,labels,Labels\nphantom_a:0,Edema,\n",
        "more than one column 'Edema'": "study_id,Edema,EDEMA\nphantom_a:0,1,0\n",
        "more than one probability of a label": [
            {"study_id": row["study_id"], "probabilities": {"Edema": 1, "edema": 0}} for row in rows
        ],
        "stray quotation mark": 'study_id,labels\n"phantom_a:0"x,Edema\n',
    }
    for match, given in faults.items():
        file = out / ("f.jsonl" if "a label" in match else "f.csv")
        written(file, given) if isinstance(given, list) else file.write_text(given)
        with pytest.raises(ValueError, match=match):
            adopt(configured(out, file))
    with pytest.raises(ValueError, match="a clip within 0\\.\\.0"):
        adopt(configured(out, written(out / "f.csv", rows), "clip=0.7"))
    with pytest.raises(FileNotFoundError, match="does not exist: file= is a csv or JSON lines"):
        adopt(configured(out, out / "none.csv"))
    more = written(out / "f.csv", [*rows, rows[0] | {"study_id": "elsewhere:1"}])
    with pytest.raises(ValueError, match=r"drop_surplus=true leaves them out"):
        adopt(configured(out, more))
    assert len(adopt(configured(out, more, "drop_surplus=true"))) == 2 * N
    half = written(out / "h.csv", [row | {"labels": ""} for row in rows[:N]])
    assert len(adopt(configured(out, half, "data.test=[phantom_a]", "arm=half"))) == N  # the way out of half a file


def test_a_row_without_a_name_is_no_row_of_the_only_film_whose_id_names_no_set(tmp_path, out):
    study = replace(asked(out)[0], study_id="p1-1")
    file = written(tmp_path / "f.csv", [{"study_id": "", "labels": "Edema"}])
    for drop_surplus in (False, True):
        with pytest.raises(ValueError, match=r"1 rows with neither a study_id nor an image, in line 2"):
            read_adopted(
                file, [study], {"p1-1": "a.png"}, AnswerFormat(CHEXPERT14, "think_solution"), drop_surplus=drop_surplus
            )


def test_answers_that_read_differently_under_another_prompt_are_refused(out):
    write_predictions(out / "ours.jsonl", answered(out))
    with pytest.raises(ValueError, match=r"read differently than the file says \(set prompt= and labels= as then\)"):
        adopt(configured(out, out / "ours.jsonl", "prompt=only_label"))
    assert len(read_predictions(out / "ours.jsonl")) == 2 * N
