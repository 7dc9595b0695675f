"""What the shipped vision tower knows of a prepared set: a linear probe of its tokens, beside answering all labels.

    make bench-probe            # after make demo DATA=nih

Logistic regressions on the mean image token, fitted on sft and rl, each cutting where it calls 1.5 times its training
prevalence positive; scored on test with a patient-clustered interval. It bounds from below what the text of the same
model could say: a probe needs no words. Prints a table and writes ``out/bench/probe.json``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from chexreason.data import manifest as manifests
from chexreason.data.image import load_image
from chexreason.data.prepare import MANIFEST_NAME
from chexreason.files import write_json
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.uncertainty import POSITIVES_ONLY
from chexreason.model.load import load_policy
from chexreason.statistics.bootstrap import intervals, paired, replicates
from chexreason.types import Prediction

CALLED = 1.5  # times the prevalence


def features(films: list[Image.Image]) -> np.ndarray:
    """Mean image token of each film, [N, hidden]."""
    policy = load_policy("tiny:tiny_gemma3", dtype="float32").eval()
    rows = []
    for start in range(0, len(films), 50):
        images = films[start : start + 50]
        prompts = policy.with_features(policy.encode(images, ["x"] * len(images)))
        rows += [tokens.mean(0) for tokens in prompts.features or ()]
    return torch.stack(rows).numpy()


def main(folder: Path) -> None:
    """Fit, score, print, write."""
    manifest = manifests.read_manifest(folder / MANIFEST_NAME)
    train = manifests.studies(manifest, CHEXPERT14, POSITIVES_ONLY, ("sft", "rl"))
    test = manifests.studies(manifest, CHEXPERT14, POSITIVES_ONLY, ("test",))
    x_train, x_test = (features([load_image(study.image) for study in found]) for found in (train, test))
    scaler = StandardScaler().fit(x_train)
    x_train, x_test = scaler.transform(x_train), scaler.transform(x_test)
    labels = [label for i, label in enumerate(CHEXPERT14) if train[0].mask[i]]
    called, areas = {}, {}
    for label in labels:
        y, truth = (np.array([s.target[CHEXPERT14.index(label)] for s in studies]) for studies in (train, test))
        model = LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced").fit(x_train, y)
        score = model.predict_proba(x_test)[:, 1]
        called[label] = score >= np.quantile(score, 1 - min(1.0, CALLED * y.mean()))
        areas[label] = roc_auc_score(truth, score)

    def answers(pick) -> list[Prediction]:
        return [
            Prediction(s.study_id, s.patient_id, s.dataset, "", pick(i), _names(s.target), tuple(labels))
            for i, s in enumerate(test)
        ]

    probe = replicates(answers(lambda i: tuple(label for label in labels if called[label][i])), labels)
    everything = replicates(answers(lambda i: tuple(labels)), labels)
    rows = [{"case": "linear probe", "metric": "macro AUROC", "ours": float(np.mean(list(areas.values())))}]
    figures = {
        "linear probe": intervals(probe),
        "all labels": intervals(everything),
        "probe minus all labels": paired(everything, probe),
    }
    for case, found in figures.items():
        value = found["macro_f1"]
        rows.append({"case": case, "metric": "macro-F1", "ours": value.value, "low": value.low, "high": value.high})
    for row in rows:
        bounds = f" [{row['low']:.3f}, {row['high']:.3f}]" if "low" in row else ""
        print(f"{row['case']:<24} {row['metric']:<12} {row['ours']:.3f}{bounds}")
    write_json(Path("out/bench/probe.json"), [row | {"peer": None, "ratio": None, "bar": None} for row in rows])


def _names(target: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(label for label, hot in zip(CHEXPERT14, target, strict=True) if hot)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
