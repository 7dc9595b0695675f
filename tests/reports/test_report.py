from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from chexreason.labels.catalog import CHEXPERT14
from chexreason.reports.report import build_report
from chexreason.reports.study_tables import long_csv, print_summary, score_table
from chexreason.statistics.predictions import counts
from chexreason.statistics.predictions import read_predictions as read
from chexreason.statistics.predictions import write_predictions as write
from chexreason.training.callbacks.label_f1 import LabelF1
from chexreason.types import Prediction

pytestmark = pytest.mark.slow  # renders the whole report

POLICY, HASH = "zeros: uncertain=negative, blank=masked", "0123456789abcdef"
DECLARED = {"policy": POLICY, "data_sha256": HASH, "text": "phantom_a: labels by <zeros>\n  names: ours\n"}
HOSTILE = '<think></think><script>alert(1)</script><img src=x onerror=alert(2)>" onload="x'


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A whole report of three arms, built once."""
    folder = tmp_path_factory.mktemp("study")
    labels = CHEXPERT14.labels

    def arm(accuracy: int, text: str) -> list[Prediction]:
        predictions = []
        for dataset, labelled in (("phantom_a", labels), ("phantom_b", labels[:4])):
            for i in range(24):
                truth = tuple(label for k, label in enumerate(labelled) if (i * 7 + k * 3) % 5 == 0)
                right = [(i + 3 * k) % 12 < accuracy for k in range(14)]
                predicted = tuple(name for k, name in enumerate(labels) if (name in truth) == right[k])
                name = f"{dataset}:{i}"
                row = Prediction(name, f"{name}-p", dataset, text, predicted, truth, labelled, None, 9)
                predictions.append(replace(row, policy=POLICY, data_sha256=HASH))
        return predictions

    for name, accuracy in (("base", 4), ("sft", 8), ("grpo", 10)):
        write(folder / name / "predictions.jsonl", arm(accuracy, HOSTILE))
    rows = "".join(f"{i},{0.1 + i / 50},{0.5},\n" for i in range(25)) + "25,,,0.4\n"
    (folder / "metrics.csv").write_text("step,train/reward,train/reward/jaccard,val/phantom_a/macro_f1\n" + rows)
    steps = "".join(f"{i},s{i % 10},p{i % 5},{0.1 + i / 50}\n" for i in range(25))
    (folder / "rewards-rank0.csv").write_text("step,study_id,patient_id,reward\n" + steps)
    (folder / "ATTRIBUTION.md").write_text("CC0 & <b>friends</b>")
    build_report(
        {arm: folder / arm / "predictions.jsonl" for arm in ("base", "sft", "grpo")},
        folder / "out",
        title="A <study>",
        train_prevalence=dict.fromkeys(labels, 0.2),
        curves={"grpo": folder / "metrics.csv"},
        stages=[{"name": "sft", "seconds": 75.0, "peak_rss_bytes": 2**30}],
        attributions=[folder / "ATTRIBUTION.md"],
        n_resamples=100,
        n_cases=3,
        notes={"Command": "make demo"},
        declarations={"phantom_a": DECLARED, "phantom_b": DECLARED | {"data_sha256": "ffff"}},
    )
    return folder


@pytest.fixture
def figures(study: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    return json.loads((study / "out" / "report.json").read_text(), parse_constant=refuse)


def test_the_json_holds_every_figure(figures: dict) -> None:
    assert list(figures["arms"]) == ["base", "sft", "grpo"]
    steps = ["base__sft", "sft__grpo", "base__grpo"]
    floors = [f"{row}__{arm}" for row in ("all_labels", "best_constant") for arm in ("base", "sft", "grpo")]
    assert list(figures["paired"]) == steps + floors
    for dataset, n_labels in (("phantom_a", 14), ("phantom_b", 4)):
        scores = figures["arms"]["sft"][dataset]
        assert set(scores["macro_f1"]) == {"value", "low", "high"}
        assert len(scores["per_label"]) == n_labels
        assert {"nothing", "all_labels", "best_constant", "prior"} == set(figures["trivial"])
        assert figures["trivial"]["all_labels"][dataset]["macro_f1"] > 0
        change = figures["paired"]["sft__grpo"][dataset]["macro_f1"]
        grpo, sft = (figures["arms"][arm][dataset]["macro_f1"]["value"] for arm in ("grpo", "sft"))
        assert change["value"] == pytest.approx(grpo - sft)
        assert change["relative"] == pytest.approx(grpo / sft - 1)
        above = figures["paired"]["all_labels__sft"][dataset]["macro_f1"]
        assert above["value"] == pytest.approx(sft - figures["trivial"]["all_labels"][dataset]["macro_f1"])
        assert above["low"] < above["value"] < above["high"]
    assert figures["grpo"]["reward"]["difference"]["low"] > 0
    assert figures["grpo"]["reward"]["patients"] == {"first_fifth": 5, "last_fifth": 5, "both": 5}
    assert figures["stages"] == [{"name": "sft", "seconds": 75.0, "peak_rss_bytes": 2**30}]


def test_the_report_scores_as_the_metric_of_training_does(study: Path, figures: dict) -> None:
    rows = [p for p in read(study / "grpo" / "predictions.jsonl") if p.dataset == "phantom_b"]
    metric, (pred, truth, mask) = LabelF1(CHEXPERT14.labels), counts(rows, CHEXPERT14.labels)
    metric.update(pred, truth, mask, np.zeros(len(rows), dtype=bool), [p.study_id for p in rows])
    scores = metric.compute()
    for name in ("macro_f1", "macro_f1_supported", "micro_f1", "fail_rate"):
        assert figures["arms"]["grpo"]["phantom_b"][name]["value"] == pytest.approx(scores[name].item())


def test_the_page_is_self_contained_and_escapes_every_text(study: Path) -> None:
    page = (study / "out" / "report.html").read_text()
    assert page.count("<script") == 1  # the one the policy names
    assert "<script" not in page[page.index("<body>") : page.rindex("<script")]
    assert "onerror=alert(2)&gt;" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "A &lt;study&gt;" in page
    assert "CC0 &amp; &lt;b&gt;" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "default-src 'none'" in page


def test_the_page_shows_the_figures_of_the_json(study: Path, figures: dict) -> None:
    page = (study / "out" / "report.html").read_text()
    for arm in figures["arms"].values():
        for by_set in arm.values():
            score = by_set["macro_f1"]
            assert f"{score['value']:.3f}" in page
            assert f"[{score['low']:.3f}, {score['high']:.3f}]" in page
    assert all(sentence in page for sentence in figures["verdict"])
    for shown in ("phantom_a", "SFT", "1.2 min", "1.00 GiB", "make demo", "GRPO: Total reward", "all_labels"):
        assert shown in page


def test_every_table_and_chart_names_policy_and_labels_of_its_sets(study: Path, figures: dict) -> None:
    a, b = f"phantom_a, 14 labels of chexpert14, data {HASH[:8]}", f"phantom_b, 4 labels, data {HASH[:8]}"
    page, text = ((study / "out" / name).read_text() for name in ("report.html", "report.md"))
    both = f"Label policy {POLICY} ({a}; {b})"
    assert page.count(f"<small>{both}</small></caption>") == 9  # seven statistics and two of changes
    for one in (a, b):
        assert page.count(f"<small>Label policy {POLICY} ({one})</small></caption>") == 1
    for words in ("14 labels of chexpert14, label policy zeros:", "4 labels, label policy zeros:"):
        assert page.count(f">{words}") == 1  # under the chart of the set
    assert text.count(f"\n\n{both}\n\n|") == 9
    assert figures["sets"]["phantom_b"]["labels"] == list(CHEXPERT14.labels[:4])
    rows = list(csv.DictReader(io.StringIO((study / "out" / "report.csv").read_text())))
    assert {(row["policy"], row["data_sha256"]) for row in rows} == {(POLICY, HASH)}


def test_a_declaration_is_shown_only_where_it_is_the_one_that_was_scored(study: Path, figures: dict) -> None:
    page = (study / "out" / "report.html").read_text()
    assert "<pre>phantom_a: labels by &lt;zeros&gt;" in page
    assert figures["sets"]["phantom_b"]["declaration"] == (
        f"Declared otherwise since these predictions: data_sha256 is now 'ffff', and was '{HASH}'"
    )
    assert "phantom_a: labels by <zeros>\n  names: ours\n```" in (study / "out" / "report.md").read_text()


def test_a_declaration_is_not_claimed_for_files_that_do_not_record_theirs(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [Prediction("s", "p", "phantom_a", "t", (), (), ("Edema",))])
    arms = {"a": tmp_path / "a.jsonl"}
    figures = build_report(arms, tmp_path, title="t", n_resamples=10, declarations={"phantom_a": DECLARED})
    assert figures["sets"]["phantom_a"]["declaration"].startswith("As declared now; these predictions do not record")
    assert "Label policy not recorded (phantom_a, 1 label, data not recorded)" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"policy": "ones: x"}, r"set: label policy differs: 'zeros: .*' in a \| 'ones: x' in b"),
        ({"study_id": "other"}, "cannot pair two arms evaluated on different studies"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused_and_nothing_is_written(tmp_path: Path, other, message) -> None:
    one = Prediction("s", "p", "set", "t", (), ("Edema",), ("Edema",), policy=POLICY, data_sha256=HASH)
    write(tmp_path / "a.jsonl", [one])
    write(tmp_path / "b.jsonl", [replace(one, **other)])
    arms = {"a": tmp_path / "a.jsonl", "b": tmp_path / "b.jsonl"}
    with pytest.raises(ValueError, match=message):
        build_report(arms, tmp_path / "out", title="t", n_resamples=10)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="at least one arm"):
        build_report({}, tmp_path / "out", title="t")


def test_chart_ids_do_not_clash(study: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', (study / "out" / "report.html").read_text())
    assert ids
    assert len(ids) == len(set(ids))


def test_a_figure_below_a_trivial_row_is_marked(figures: dict) -> None:
    figures["arms"]["sft"]["phantom_a"]["macro_f1"] |= {"value": 0.0001}
    figures["arms"]["grpo"]["phantom_a"]["macro_f1"] |= {"value": 0.9}
    rows = {str(row[0]): row for row in score_table(figures, "macro_f1").rows}
    assert rows["SFT"][1].mark == "below all_labels, best_constant, prior"
    assert rows["GRPO"][1].mark == ""
    assert {"nothing", "all_labels", "best_constant", "prior"} < set(rows)


def test_markdown_csv_and_terminal_agree(study: Path, figures: dict) -> None:
    value = figures["arms"]["grpo"]["phantom_b"]["macro_f1"]["value"]
    assert f"| {value:.3f} [" in (study / "out" / "report.md").read_text()
    table = list(csv.DictReader(io.StringIO(long_csv(figures))))
    found = [r for r in table if (r["row"], r["dataset"], r["statistic"]) == ("grpo", "phantom_b", "macro_f1")]
    assert [float(r["value"]) for r in found] == [pytest.approx(value)]
    assert len({tuple(r.values()) for r in table}) == len(table)
    console = Console(file=io.StringIO(), width=200)
    print_summary(figures, console)
    assert f"{value:.3f} [" in console.file.getvalue()
    assert POLICY in console.file.getvalue()


def test_one_patient_and_no_extras_still_make_a_report(tmp_path: Path) -> None:
    one = Prediction("s", "p", "set", "t", ("Edema",), ("Edema",), ("Edema", "Pneumonia"), None)
    write(tmp_path / "predictions.jsonl", [one])
    figures = build_report({"base": tmp_path / "predictions.jsonl"}, tmp_path, title="t", n_resamples=10)
    assert figures["arms"]["base"]["set"]["macro_f1"] == {"value": 0.5, "low": None, "high": None}
    assert list(figures["paired"]) == ["all_labels__base"]
    assert "[undefined]" in (tmp_path / "report.html").read_text()
