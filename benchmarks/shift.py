"""Prior shift, its test and odd films on phantoms, with scores of a linear probe of the shipped tower's image tokens.

    make bench-shift            # seeds 20 to 24, 300 films a hospital; the test was made on seeds 0 to 4

Prints a line a seed and shift, and writes ``out/bench/shift.json``: errors of prevalences before and after EM, whether
EM was refused, the distance of features, and the share of films that are unlike those of training.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.probe import features
from chexreason.files import write_json
from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.phantom.institution import raw_labels
from chexreason.phantom.render import render_film
from chexreason.phantom.source import PhantomSource
from chexreason.statistics.oddity import oddities, picture_figures
from chexreason.statistics.shift import energy_test, prior_shift

SIZE, NINE = 112, [CHEXPERT14.index(label) for label in NIH9]
SHIFTS = ("none", "prevalence", "annotation", "acquisition", "both")
Pair = tuple[np.ndarray, np.ndarray]


def seen(films: list[Image.Image]) -> Pair:
    """Features [N, D] and figures [N, 5] of films."""
    return features(films), np.stack([picture_figures(np.asarray(film.resize((128, 128)))) for film in films])


def hospital(name: str, shift: str, n: int, seed: int, split: str = "test") -> tuple[Pair, np.ndarray, list[str]]:
    """What is ``seen`` of a phantom hospital's films, its marks [N, 14] and the patients."""
    source = PhantomSource(name, name, shift, {split: n}, SIZE, seed)
    films, marks, patients = [], [], []
    for _, patient, _, study in source.studies():
        films.append(Image.fromarray(render_film(study, source.institution.rendering, SIZE)).convert("RGB"))
        raw = raw_labels(study, source.institution.labelling, np.random.default_rng([study.seed, 99]))
        marks.append([raw[label] for label in CHEXPERT14.labels])
        patients.append(patient)
    return seen(films), np.array(marks), patients


def no_films(n: int) -> dict[str, list[Image.Image]]:
    """Noise, empty films and coloured pictures."""
    rng = np.random.default_rng(0)
    flat = [np.full((SIZE, SIZE), rng.integers(256)) for _ in range(n)]
    found = {"noise": [rng.integers(0, 256, (SIZE, SIZE)) for _ in range(n)], "empty": flat}
    pictures = {k: [Image.fromarray(a.astype(np.uint8)).convert("RGB") for a in v] for k, v in found.items()}
    colours = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(n)]
    return pictures | {"photographs": [c.resize((SIZE, SIZE), Image.Resampling.BICUBIC) for c in colours]}


def main(n: int, seeds: int, first: int, out: Path) -> None:
    """Render, fit, test, print, write."""
    train, marks, _ = hospital("a", "none", 500, 100, "sft")
    usual = train, hospital("a", "none", 100, 100, "val")[0]
    scaler = StandardScaler().fit(train[0])
    x = scaler.transform(train[0])
    probes = [LogisticRegression(C=0.01, max_iter=500).fit(x, y == 1.0) for y in marks.T]
    rows: list[dict[str, object]] = []
    for seed in range(first, first + seeds):
        home, truth, ours = hospital("a", "none", n, seed)
        for shift in SHIFTS:
            away, there, theirs = hospital("b", shift, n, seed)
            one, other = (np.unique(patients, return_index=True)[1] for patients in (ours, theirs))
            scored = [
                (np.stack([p.decision_function(scaler.transform(f[0][k])) for p in probes], 1), f[0][k])
                for f, k in ((home, one), (away, other))
            ]
            found = prior_shift(scored[0], truth[one] == 1.0, scored[1], 99, seed)
            assert found is not None
            at = [i for i, label in enumerate(found.labels) if label in NINE]
            real = (there[other] == 1.0).mean(axis=0)[np.array(found.labels)[at]]
            energy, p = energy_test(home[0], away[0], (ours, theirs), 199, seed)
            row = {
                "seed": seed,
                "shift": shift,
                "refused": not found.usable,
                "p": found.p,
                "energy": energy,
                "energy_p": p,
            }
            row |= {k: float(np.abs(v[at] - real).mean()) for k, v in (("home", found.home), ("em", found.away))}
            row |= {"unlike_home": _unlike(usual, home), "unlike_away": _unlike(usual, away)}
            rows.append(row)
            print(" ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
    odd = {name: _unlike(usual, seen(films)) for name, films in no_films(60).items()}
    print("unlike training:", " ".join(f"{k}={v:.3f}" for k, v in odd.items()))
    write_json(out, {"films": n, "rows": rows, "unlike": odd})


def _unlike(usual: tuple[Pair, Pair], films: Pair) -> float:
    return float((oddities(*usual, films).max(axis=1) > 1).mean())


if __name__ == "__main__":
    torch.manual_seed(0)
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))
