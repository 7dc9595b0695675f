"""Drawing the sample, and taking the reviewed traces back."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.review.decision import Decision
from chexreason.review.journal import draw_sample
from chexreason.review.reviewed_traces import apply_review
from chexreason.traces.trace import NO_LABEL, Trace


def trace(i: int, labels: tuple[str, ...] = ("Edema",), patient: str = "") -> Trace:
    return Trace(f"s{i}", patient or f"p{i}", "d", f"{i}.png", labels, "free_reasoning", f"text {i}")


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


def decision(t: Trace, verdict: str, text: str = "", reviewer: str = "anna") -> Decision:
    return Decision(reviewer, *t.key, t.text_sha256, verdict, text=text)


def test_rejected_traces_go_and_edits_replace():
    traces = [trace(i) for i in range(5)]
    kept = apply_review(
        traces,
        [
            decision(traces[0], "accept"),
            decision(traces[1], "edit", "mended"),
            decision(traces[2], "reject"),
            decision(traces[3], "edit", "hers"),
            decision(traces[2], "accept", reviewer="ben"),
            decision(traces[3], "edit", "his", reviewer="ben"),
        ],
    )
    assert [asdict(t) for t in kept] == [
        asdict(t) for t in (traces[0], replace(traces[1], text="mended"), replace(traces[3], text="hers"), traces[4])
    ]


def test_a_review_of_other_traces_is_not_applied():
    with pytest.raises(ValueError, match=r"2 of 2 decisions .*s9 / free_reasoning by anna"):
        apply_review(
            [trace(1)], [decision(trace(9), "reject"), decision(replace(trace(1), text="older"), "edit", "new")]
        )
