"""Drawing the sample, taking the reviewed traces back, and the figures of a review."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.review.decision import REASONS, VERDICTS, Decision
from chexreason.review.journal import draw_sample
from chexreason.review.reviewed_traces import apply_review, export_review
from chexreason.review.summary import headlines, summarise
from chexreason.traces.trace import NO_LABEL, Trace, read_traces


def trace(i: int, labels: tuple[str, ...] = ("Edema",), patient: str = "") -> Trace:
    return Trace(f"s{i}", patient or f"p{i}", "d", f"{i}.png", labels, "free_reasoning", f"one two three {i}")


def decision(t: Trace, verdict: str, text: str = "", reviewer: str = "anna", **rest: str) -> Decision:
    return Decision(reviewer, *t.key, t.text_sha256, verdict, text=text, **rest)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.frozensets(st.sampled_from(CHEXPERT14.labels[:6]), max_size=3), min_size=1, max_size=40),
    st.integers(1, 45),
    st.integers(0, 3),
)
def test_a_sample_is_as_large_and_as_broad_as_it_can_be(label_lists, n, seed):
    traces = [trace(i, tuple(sorted(labels))) for i, labels in enumerate(label_lists)]
    sample = draw_sample(traces, n, seed)
    assert len({t.key for t in sample}) == len(sample) == min(n, len(traces))
    present = {label for t in traces for label in t.strata}
    if n >= len(present):
        assert {label for t in sample for label in t.strata} == present
    assert draw_sample(traces[::-1], n, seed) == sample


def test_a_rare_label_gets_its_share_and_patients_are_spread():
    common = [trace(i, ("Edema",), patient=f"p{i % 60}") for i in range(500)]
    rare = [trace(1000 + i, ("Fracture",)) for i in range(12)] + [trace(2000, ())]
    sample = draw_sample([*common, *rare], 40, seed=0)
    counts = Counter(label for t in sample for label in t.strata)
    assert counts == {"Edema": 27, "Fracture": 12, NO_LABEL: 1}
    assert len({t.patient_id for t in sample}) == 40
    assert draw_sample([*common, *rare], 40, seed=1) != sample
    with pytest.raises(ValueError, match="n=0"):
        draw_sample(common, 0, 0)


def test_rejected_traces_go_and_edits_replace():
    traces = [trace(i) for i in range(5)]
    decisions = [
        decision(traces[0], "accept"),
        decision(traces[1], "edit", "mended"),
        decision(traces[2], "reject"),
        decision(traces[3], "edit", "hers"),
        decision(traces[2], "accept", reviewer="ben"),
        decision(traces[3], "edit", "his", reviewer="ben"),
    ]
    mended, hers = replace(traces[1], text="mended"), replace(traces[3], text="hers")
    assert apply_review(traces, decisions) == [traces[0], mended, hers, traces[4]]


def test_a_review_of_other_traces_is_not_applied():
    decisions = [decision(trace(9), "reject"), decision(replace(trace(1), text="older"), "edit", "new")]
    with pytest.raises(ValueError, match=r"2 of 2 decisions .*s9 / free_reasoning by anna"):
        apply_review([trace(1)], decisions)


@pytest.fixture
def reviewed():
    labels = [("Edema",), ("Edema", "Fracture"), (), ("Fracture",)]
    traces = [trace(i, have) for i, have in enumerate(labels)]
    comment = '=HYPERLINK("http://x")\nsecond line, with comma'
    decisions = [
        decision(traces[0], "accept"),
        decision(traces[1], "edit", "one 2 three four 1", reason=REASONS[0]),
        decision(traces[2], "reject", reason=REASONS[1], comment=comment),
        decision(traces[0], "accept", reviewer="ben"),
        decision(traces[1], "accept", reviewer="ben"),
    ]
    return traces, decisions


def test_the_summary_counts_by_reader_label_and_pair(reviewed):
    traces, decisions = reviewed
    figures = summarise(traces, decisions, CHEXPERT14.labels, n_resamples=200)
    anna = figures["reviewers"]["anna"]
    assert [anna[name] for name in ("decided", *VERDICTS)] == [3, 1, 1, 1]
    assert anna["words_changed"] == {"median": 2, "most": 2, "median_share": 0.5}
    assert anna["reasons"] == {REASONS[0]: 1, REASONS[1]: 1}
    assert list(figures["labels"]) == ["Edema", "Fracture", "(no positive label)"]
    assert {k: (v["traces"], v["n"], v["accepted"]) for k, v in figures["labels"].items()} == {
        "Edema": (2, 4, 3), "Fracture": (2, 2, 1), "(no positive label)": (1, 1, 0),
    }  # fmt: skip
    (pair,) = figures["agreement"]
    assert (pair["reviewers"], pair["n"], pair["observed"], pair["value"]) == (["anna", "ben"], 2, 0.5, 0.0)
    assert headlines(figures)[0] == "anna: 3 of 4 decided, 1 accepted, 1 edited, 1 rejected"
    assert "kappa 0.00" in headlines(figures)[-1]
    assert headlines(summarise(traces, [], CHEXPERT14.labels)) == ["no decisions yet"]


def test_the_export_holds_every_decision_and_no_formula(reviewed, tmp_path):
    traces, decisions = reviewed
    export_review(tmp_path, traces, traces, decisions, CHEXPERT14.labels, n_resamples=50)

    rows = json.loads((tmp_path / "decisions.json").read_text())
    json.loads((tmp_path / "agreement.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
    assert [row["words_changed"] for row in rows] == [None, 2, None, None, None]
    assert rows[2]["comment"].startswith("=HYPERLINK")
    table = list(csv.DictReader(io.StringIO((tmp_path / "decisions.csv").read_text())))
    assert len(table) == 5
    assert table[2]["comment"].startswith("'=HYPERLINK")
    assert table[2]["comment"].endswith("second line, with comma")
    texts = [trace.text for trace in read_traces(tmp_path / "traces.jsonl")]
    assert texts == [traces[0].text, "one 2 three four 1", traces[3].text]
