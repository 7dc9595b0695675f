"""Few labelled patients of a new hospital: who is scored, what each way keeps of home, what a moved hospital gains."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from chexreason.statistics.cuts import Target, calibrate, fit_cuts
from chexreason.statistics.few_labels import WAYS, few_label_gain

RULE = partial(fit_cuts, target=Target("f1"), min_positives=1)


def hospital(n: int, moved: float = 0.0, seed: int = 0) -> tuple:
    """Scores, truth, mask [N, 3] and patients of two studies each; scores are ``moved``."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 3)) < (0.4, 0.3, 0.2)
    return (
        2.5 * truth + rng.standard_normal((n, 3)) + moved,
        truth,
        np.ones((n, 3), bool),
        [str(i // 2) for i in range(n)],
    )


def gain(away: tuple, n: list[int], rule=RULE, **options) -> dict:
    home = hospital(400, seed=9)
    cuts, calibration = RULE(*home[:3]), calibrate(*home[:3])
    scores, truth, mask, patients = away
    own = np.zeros_like(truth)
    return few_label_gain(rule, cuts, calibration, scores, own, truth, mask, patients, n, n_draws=40, **options)


def test_without_labels_all_ways_are_homes_cuts() -> None:
    home, (scores, truth, _, _) = hospital(400, seed=9), (away := hospital(200))
    named = scores >= RULE(*home[:3])
    f1 = 2 * (named & truth).sum(0) / (named.sum(0) + truth.sum(0))
    for by_n in gain(away, [0]).values():
        assert by_n[0].value == pytest.approx(f1.mean())
        assert by_n[0].low == by_n[0].high == by_n[0].value


def test_where_scores_moved_labels_win_back_what_homes_cuts_lose() -> None:
    still, moved = gain(hospital(300), [0, 50]), gain(hospital(300, moved=2.0), [0, 50])
    for way in WAYS:
        assert moved[way][0].value < still[way][0].value - 0.1
    for way in ("intercept alone", "free cuts"):
        assert moved[way][50].value > still[way][50].value - 0.05
        assert moved[way][50].low > moved[way][0].value
    assert moved["free cuts"][50].value > moved["shrunken cuts"][50].value > moved["shrunken cuts"][0].value
    assert abs(still["shrunken cuts"][50].value - still["shrunken cuts"][0].value) < 0.02


@pytest.mark.parametrize("consecutive", [False, True])
def test_no_drawn_patient_is_scored_and_a_patient_is_drawn_whole(consecutive: bool) -> None:
    away, seen = hospital(60), []
    place = {row.tobytes(): i for i, row in enumerate(away[0])}

    def rule(s: np.ndarray, t: np.ndarray, m: np.ndarray) -> np.ndarray:
        seen.append(sorted({place[row.tobytes()] // 2 for row in s}))
        assert len(s) == 2 * len(seen[-1])
        return np.full(3, -99.0)  # names all: where the drawn were scored too, the figure would be that of all rows

    found = gain(away, [10], rule, consecutive=consecutive)["free cuts"][10]
    assert {len(drawn) for drawn in seen} == {10}
    gaps = {tuple(np.diff(drawn)) for drawn in seen}
    assert all(sorted(gap)[:-1] == [1] * 8 for gap in gaps) if consecutive else len(gaps) > 20
    rest = [[i for i in range(60) if i // 2 not in drawn] for drawn in seen]
    f1 = [2 * away[1][r].sum(0) / (len(r) + away[1][r].sum(0)) for r in rest]
    assert found.value == pytest.approx(np.mean(f1))


def test_a_label_of_one_kind_keeps_homes_cut_and_too_many_patients_are_refused() -> None:
    scores, truth, mask, patients = hospital(80)
    truth[:, 2] = False
    found = gain((scores, truth, mask, patients), [20])
    assert all(np.isfinite(found[way][20].value) for way in WAYS)
    none = gain((scores, truth & False, mask, patients), [20])
    assert none["free cuts"][20] == none["shrunken cuts"][20] == none["intercept alone"][20]
    for odd in ("a", -1):
        with pytest.raises(ValueError, match=f"few_labels: '{odd}' is no number of patients"):
            gain((scores, truth, mask, patients), [odd])
    with pytest.raises(ValueError, match="21 of 40 patients leave fewer than half to score"):
        gain((scores, truth, mask, patients), [0, 21])
