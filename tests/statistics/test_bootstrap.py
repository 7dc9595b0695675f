from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.statistics.bootstrap import intervals, paired, replicates
from chexreason.statistics.predictions import counts, datasets
from chexreason.types import Prediction


def _arm(make_arm, accuracy: float, name: str = "phantom_b", **kwargs) -> list[Prediction]:
    return datasets(make_arm(accuracy, **kwargs))[name]


def test_equals_a_slow_loop_over_resampled_patients(make_arm) -> None:
    arm = _arm(make_arm, 0.7, fail_every=6)
    sample = replicates(arm, NIH9.labels, n_resamples=30, seed=5)
    pred, truth, _ = counts(arm, NIH9.labels)
    assert sample.value["micro_f1"] == pytest.approx(f1_score(truth, pred, average="micro"))
    patients = sorted({p.patient_id for p in arm})
    picks = np.random.default_rng(5).integers(len(patients), size=(30, len(patients)))
    for i, chosen in enumerate(picks):
        rows = [p for k in chosen for p in arm if p.patient_id == patients[k]]
        pred, truth, _ = counts(rows, NIH9.labels)
        each = f1_score(truth, pred, average=None, zero_division=0)
        assert sample.draws["macro_f1"][i] == pytest.approx(each.mean())
        assert sample.draws["macro_f1_supported"][i] == pytest.approx(each[truth.any(axis=0)].mean())
        assert sample.draws["micro_f1"][i] == pytest.approx(f1_score(truth, pred, average="micro"))
        assert sample.draws["f1/Edema"][i] == pytest.approx(each[NIH9.index("Edema")])
        overlaps = [0.0 if p.broken else _overlap(a, b) for p, a, b in zip(rows, pred, truth, strict=True)]
        assert sample.draws["jaccard"][i] == pytest.approx(np.mean(overlaps))
        assert sample.draws["fail_rate"][i] == pytest.approx(sum(p.broken is not None for p in rows) / len(rows))


def _overlap(pred: np.ndarray, truth: np.ndarray) -> float:
    return (pred & truth).sum() / (pred | truth).sum() if (pred | truth).any() else 1.0


def test_more_studies_of_the_same_patients_add_no_certainty(make_arm) -> None:
    arm = [replace(p, patient_id=p.study_id) for p in _arm(make_arm, 0.7)]
    copies = [replace(p, study_id=f"{p.study_id}:{k}") for p in arm for k in range(4)]
    once, often = intervals(replicates(arm, NIH9.labels, 200)), intervals(replicates(copies, NIH9.labels, 200))
    for name in once:
        assert often[name].low == pytest.approx(once[name].low, nan_ok=True)
        assert often[name].high == pytest.approx(once[name].high, nan_ok=True)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng, covered, n_runs = random.Random(0), 0, 80
    for run in range(n_runs):
        fails = [rng.random() < 0.3 for _ in range(60)]
        arm = [
            Prediction(f"s{i}", f"p{i}", "set", "", (), (), ("Edema",), "no_solution" if fail else None)
            for i, fail in enumerate(fails)
        ]
        found = intervals(replicates(arm, ("Edema",), 200, seed=run))["fail_rate"]
        covered += found.low <= 0.3 <= found.high
    assert 0.85 <= covered / n_runs <= 1.0


def test_a_figure_at_its_limit_is_not_certain(make_arm) -> None:
    arm = [replace(p, predicted=()) for p in _arm(make_arm, 0.7, n=60)]  # two studies a patient
    found = intervals(replicates(arm, NIH9.labels, 50))
    z = 1.959964**2
    assert (found["fail_rate"].value, found["fail_rate"].low) == (0, 0)
    assert found["fail_rate"].high == pytest.approx(z / (30 + z), abs=1e-6)
    assert found["macro_f1"].value == 0
    assert 0.02 < found["macro_f1"].high < 0.3  # no resample has another value, and still it is not certain
    assert math.isnan(found["micro_f1"].high)
    broken = [replace(p, broken="no_solution") for p in arm]
    never = intervals(replicates(broken, NIH9.labels, 50))["fail_rate"]
    assert (never.value, never.high) == (1, 1)
    assert never.low == pytest.approx(30 / (30 + z), abs=1e-6)


def test_pairing_cancels_what_two_arms_share(make_arm) -> None:
    a, b = (replicates(_arm(make_arm, q, n=60), NIH9.labels, 400) for q in (0.70, 0.75))
    same = paired(a, a)["macro_f1"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    change, alone = paired(a, b)["macro_f1"], intervals(b)["macro_f1"]
    assert change.value == pytest.approx(b.value["macro_f1"] - a.value["macro_f1"])
    assert paired(b, a)["macro_f1"].low == pytest.approx(-change.high)
    assert change.low <= change.value <= change.high
    assert alone.low < alone.value < alone.high


def test_pairing_refuses_other_studies_and_other_draws(make_arm) -> None:
    arm = _arm(make_arm, 0.7)
    a = replicates(arm, NIH9.labels, 20)
    with pytest.raises(ValueError, match=r"1 only in the first \['phantom_b:s0'\], 0 only in the second"):
        paired(a, replicates(arm[1:], NIH9.labels, 20))
    with pytest.raises(ValueError, match="different seeds"):
        paired(a, replicates(arm, NIH9.labels, 20, seed=1))


def test_one_patient_has_a_value_and_no_interval(make_arm) -> None:
    arm = [replace(p, patient_id="only") for p in _arm(make_arm, 0.7, "phantom_a")]
    found = intervals(replicates(arm, CHEXPERT14.labels, 20))["macro_f1"]
    assert found.value > 0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="no predictions to resample"):
        replicates([], NIH9.labels)
