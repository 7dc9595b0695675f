"""A base arm that answers in its own words: what every page says of it, and of a gain that is vocabulary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chexreason.cli.evaluate import score_sets
from chexreason.labels.catalog import CHEXPERT14
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.reports.report import build_report
from chexreason.reports.result_table import write_table
from chexreason.reports.transfer_page import write_transfer
from chexreason.rewards.lab.answers import of_predictions
from chexreason.statistics.predictions import vocabulary, write_predictions
from chexreason.statistics.vocabulary import vocabulary_shift
from chexreason.training.callbacks.label_f1 import LabelF1Callback
from chexreason.types import Prediction

READ = AnswerFormat(CHEXPERT14, Grammar.SOLUTION_ONLY)
JUDGED = {"a": CHEXPERT14.labels, "b": CHEXPERT14.labels[:6]}
HOSTILE = "<img src=x onerror=alert(2)> ![x](http://evil)"
SHARE = "60% of the answers of Base and 0% of SFT"


def arm(say, n: int = 40) -> list[Prediction]:
    """The answers ``say(i, truth)`` to the same studies of two hospitals, as an evaluation would write them."""
    rows = []
    for name, labelled in JUDGED.items():
        for i in range(n):
            truth = tuple(label for k, label in enumerate(labelled) if (i * 7 + k * 3) % 5 == 0)
            text = f"<solution>{say(i, truth)}</solution>"
            read = READ.parse(text)
            judged = tuple(label for label in read.labels if label in labelled)
            row = Prediction(f"{name}{i}", f"{name}{i}-p", name, text, judged, truth, labelled, read.broken)
            rows.append(replace(row, named=read.labels, unknown=read.unknown))
    return rows


def right(i: int, truth: tuple[str, ...]) -> str:
    return ", ".join(truth if i % 4 else ("Fracture", "Pneumonia")) or "No Finding"


def base(i: int, truth: tuple[str, ...]) -> str:
    return ("Fluid", "flu\u00adid\u202f", "heart\tenlarged")[i % 5] if i % 5 < 3 else right(i, truth)


ARMS = {"base": arm(base), "sft": arm(right)}
SAID = (
    f"part of the gain of SFT against Base (+0.{{}}) comes with answers that the label list can read: {SHARE} name no "
    f"known label, {SHARE} have an item that is no label; on the 16 studies where both name labels alone, "
    "the change is +0.000 ["
)


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        ("Edema", (0, 0)),
        ("pleural  EFFUSION, No Finding.", (0, 0)),
        ("Pleural-Effusion", (1, 1)),
        ("Fluid; heart enlarged", (1, 1)),
        ("Edema\n2. Pulmonary edema", (1, 0)),
        ("None", (1, 1)),
        ("", (0, 0)),  # broken: it counts in the fail rate
    ],
)
def test_an_item_is_a_label_or_it_is_not(solution: str, expected: tuple[int, int]) -> None:
    assert vocabulary(arm(lambda i, truth: solution, 1)).tolist() == [list(map(float, expected))] * 2
    assert np.isnan(vocabulary([replace(ARMS["sft"][0], named=None)])).all()


def test_evaluation_and_validation_count_alike() -> None:
    scores = score_sets(ARMS["base"], CHEXPERT14)
    assert scores["a"].items() >= {"unknown_rate": 0.6, "no_label_rate": 0.6, "fail_rate": 0.0}.items()
    callback, logged = LabelF1Callback(CHEXPERT14), {}
    module = SimpleNamespace(device="cpu", log_dict=lambda figures, **_: logged.update(figures))
    callback.on_validation_epoch_start(SimpleNamespace(datamodule=SimpleNamespace(val_names=["a"])), module)
    rows = [p for p in ARMS["base"] if p.dataset == "a"]
    for batch in (rows[:30], rows[30:], rows[:4]):  # the last is a sampler's padding
        callback.on_validation_batch_end(None, module, batch, None, 0)
    callback.on_validation_epoch_end(None, module)
    for name in ("unknown_rate", "no_label_rate", "fail_rate", "macro_f1"):
        assert logged[f"val/a/{name}"] == pytest.approx(scores["a"][name])


@pytest.mark.slow
def test_a_gain_that_is_vocabulary_is_said_to_be_vocabulary(tmp_path: Path) -> None:
    odd = [replace(p, unknown=(*p.unknown, HOSTILE)) if p.dataset == "b" else p for p in ARMS["base"]]
    for name, rows in {"base": odd, "sft": ARMS["sft"]}.items():
        write_predictions(tmp_path / name, rows)
    arms = {name: tmp_path / name for name in ARMS}
    figures = build_report(arms, tmp_path, title="t", n_resamples=200, images="none")
    text = " ".join(figures["verdict"])
    gain = figures["common"]["paired"]["base__sft"]["a"]["macro_f1"]["value"]  # both judge six labels
    assert f"At a, {SAID.format(f'{gain:.3f}'[2:])}" in text
    assert (
        "the gain of SFT at a carries over, but part of the change at a and b is vocabulary, as is said below." in text
    )
    assert "name no known label and count as empty: 60% of Base at a and 60% of Base at b." in text
    page, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "| Base | `Fluid` 16, `heart enlarged` 8 |" in markdown
    assert "`<img src=x onerror=alert(2)> ![x](http://evil)` 40" in markdown  # as code
    assert "<img src=x" not in page
    assert '<span class="chip">? Fluid</span>' in page
    assert '<span class="chip">○ Pneumonia</span>' in page  # named at b, which does not judge it
    assert json.loads((tmp_path / "report.json").read_text())["arms"]["base"]["a"]["no_label_rate"]["value"] == 0.6
    write_predictions(tmp_path / "base", [replace(p, named=None, unknown=None) for p in ARMS["base"]])
    build_report(arms, tmp_path, title="t", n_resamples=50, images="none")
    assert (tmp_path / "report.md").read_text().count("| Base | not recorded | not recorded |") == 3
    assert "comes with answers" not in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_the_transfer_report_and_the_papers_tables_say_it_too(tmp_path: Path) -> None:
    no_film = replace(ARMS["sft"][0], study_id="u", predicted=(), truth=(), labelled=(), named=(), unknown=("Fluid",))
    arms = {"Base": [*ARMS["base"], no_film], "SFT": [*ARMS["sft"], no_film]}  # whose answer no rate counts
    runs = {name: {0: rows, 1: rows} for name, rows in arms.items()}
    options = {"label_set": CHEXPERT14, "n_resamples": 100}
    said = write_transfer(runs, tmp_path, home="a", away=["b"], n_permutations=50, **options)
    assert sum(SHARE in sentence for sentence in said) == 2
    assert "| Base | 60.0%, 60.0% | 60.0%, 60.0% |" in (tmp_path / "transfer.md").read_text()
    old = [replace(p, named=None, unknown=None) for p in ARMS["base"]]
    table = {"free_reasoning": {0: ARMS["base"]}, "only_label": {0: old}}
    write_table("table2", table, tmp_path, dataset="a", **options)
    rows = (tmp_path / "table2.md").read_text()
    assert "| not recorded | not recorded |" in rows
    assert "| 0.600 [0." in rows


def test_a_loss_that_is_vocabulary_is_one_too_and_labels_alone_are_none() -> None:
    a, b = ([[p for p in rows if p.dataset == "a"]] for rows in ARMS.values())
    assert vocabulary_shift(b, a, CHEXPERT14.labels, 100, 0)["change"]["value"] < 0
    assert vocabulary_shift(a, a, CHEXPERT14.labels, 100, 0) == {}
    few = [replace(p, named=(), unknown=("Fluid",), predicted=()) if i == 0 else p for i, p in enumerate(b[0])]
    assert vocabulary_shift([few], b, CHEXPERT14.labels, 100, 0) == {}  # one answer of forty: not clearly more frequent


def test_a_gain_from_one_item_that_becomes_a_label_beside_others_is_vocabulary_too() -> None:
    """Base says "Fluid" for Atelectasis in 24 of 40 answers, all of which name a label: nothing else differs."""
    after = [p for p in ARMS["sft"] if p.dataset == "a"]
    named = [replace(p, named=("No Finding", *p.named), predicted=("No Finding", *p.predicted)) for p in after]
    less = [tuple(label for label in p.predicted if label != "Atelectasis") for p in named]
    own = [replace(p, unknown=("Fluid",), named=x, predicted=x) for p, x in zip(named, less, strict=True)]
    before = [p if i % 5 < 3 else q for i, (p, q) in enumerate(zip(own, named, strict=True))]
    shift = vocabulary_shift([before], [named], CHEXPERT14.labels, 100, 0)
    assert (shift["before"]["no_label_rate"], shift["before"]["unknown_rate"]) == (0.0, 0.6)
    assert shift["change"]["value"] > 0.01
    assert (shift["readable"]["value"], shift["n_readable"], shift["alone"]) == (0.0, 16, True)
    every = [replace(p, unknown=(*p.unknown, "Fluid")) for p in named]  # both arms always have one: labels among others
    none = [replace(p, predicted=(), named=()) if i % 5 < 3 else p for i, p in enumerate(every)]
    shift = vocabulary_shift([none], [every], CHEXPERT14.labels, 100, 0)
    assert (shift["n_readable"], shift["alone"]) == (16, False)


def test_rewards_read_what_was_named_and_refuse_another_reading() -> None:
    rows = [p for p in ARMS["sft"] if p.dataset == "b"]
    assert of_predictions(rows, READ).completions[0].parsed.labels == ("Fracture", "Pneumonia") == rows[0].named
    with pytest.raises(ValueError, match=r"1 of 40 answers, e.g. of b3, read differently"):
        of_predictions([*rows[:3], replace(rows[3], named=("Fracture",)), *rows[4:]], READ)
