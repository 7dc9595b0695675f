"""Prior shift where it must help and where it must be refused, distance of features, films unlike home."""

from __future__ import annotations

import numpy as np

from chexreason.statistics.oddity import ODDITIES, PICTURE_FIGURES, oddities, picture_figures
from chexreason.statistics.shift import energy_test, prior_shift, score_distances


def hospital(seed: int, share: float, n: int = 300, move: float = 0.0) -> tuple[tuple, np.ndarray]:
    """Scores [N, 2] and features [N, 4] that follow two labels, of shares ``share`` and a quarter."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 2)) < (share, 0.25)
    scores = 2.0 * truth + rng.normal(size=(n, 2))
    features = np.concatenate([truth + 0.7 * rng.normal(size=(n, 2)), rng.normal(size=(n, 2))], axis=1)
    return (scores + move, features + move), truth


def test_prior_shift_finds_another_case_mix_and_refuses_other_films():
    usable, errors, refused = [], [], []
    for seed in range(1, 9):
        (home, truth), (away, labels) = hospital(100 + seed, 0.3), hospital(seed, 0.6)
        found = prior_shift(home, truth, away, 39, seed)
        usable.append(found.usable)
        errors.append(abs(found.away - labels.mean(axis=0)))
        refused.append(not prior_shift(home, truth, hospital(seed, 0.3, move=0.6)[0], 39, seed).usable)
    assert sum(usable) >= 7
    assert np.mean(errors, axis=0).max() < 0.06  # home's prevalence is .3 off
    assert all(refused)
    assert prior_shift(home, np.zeros_like(truth), home) is None


def test_features_of_one_population_and_of_two():
    (_, ours), _ = hospital(0, 0.3)
    ids = [str(i // 3) for i in range(300)]  # three films a patient
    p = [energy_test(ours, hospital(seed, 0.3)[0][1], (ids, ids), 199, seed)[1] for seed in range(1, 13)]
    assert sum(x <= 0.05 for x in p) <= 2
    assert energy_test(ours, ours + 0.5, (ids, ids), 199)[1] == 1 / 200
    one = np.repeat(np.random.default_rng(5).normal(size=(8, 4)), 30, axis=0)  # eight patients of thirty films each
    ids = [str(i // 30) for i in range(240)]
    other = np.repeat(np.random.default_rng(6).normal(size=(8, 4)), 30, axis=0)
    assert energy_test(one, other, (ids, ids), 199)[1] > 0.05
    assert energy_test(one, other, ([str(i) for i in range(240)],) * 2, 199)[1] <= 0.05  # what dealing films would say
    assert score_distances(one[:, :1], one[:, :1] + 99) == [1.0]


def test_what_is_no_film_is_named_and_ordinary_films_are_not():
    rng = np.random.default_rng(0)
    ramp = np.linspace(30, 220, 64)[:, None] * np.ones((1, 64))

    def figures(n: int, make) -> np.ndarray:
        made = [np.clip(make(), 0, 255).astype(np.uint8) for _ in range(n)]
        return np.stack([picture_figures(np.repeat(m[..., None], 3, -1) if m.ndim == 2 else m) for m in made])

    film = lambda: ramp * rng.uniform(0.8, 1.1) + rng.normal(0, 6, (64, 64))  # noqa: E731
    sets = [(rng.normal(size=(n, 5)), figures(n, film)) for n in (200, 100, 300)]
    assert (oddities(*sets).max(axis=1) > 1).mean() <= 0.02
    for name, make in {
        "noise": lambda: rng.integers(0, 256, (64, 64)),
        "empty": lambda: np.full((64, 64), rng.integers(256)),
        "photograph": lambda: np.stack([ramp, ramp.T, 255 - ramp], axis=-1),
    }.items():
        odd = oddities(*sets[:2], (rng.normal(size=(20, 5)), figures(20, make)))
        assert (odd.max(axis=1) > 1).all(), name
    assert ODDITIES[int(odd[0].argmax())] == PICTURE_FIGURES[0] == "colour"
    assert (oddities(*sets[:2], (np.full((1, 5), 9.0), sets[1][1][:1]))[0].argmax()) == 0  # the features alone
