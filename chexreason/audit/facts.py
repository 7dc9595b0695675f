"""The figures of one prepared set, and how training differs from evaluation: pure functions to JSON-ready mappings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from chexreason.data.leakage import EVALUATION, TRAIN
from chexreason.data.manifest import Manifest, content_hash
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import LabelPolicy, resolve

Figures = dict[str, Any]
NORMAL = "No Finding"
DEVICES = "Support Devices"  # a device is no disease: CheXpert's labeller lets it stand beside No Finding
DECADES = tuple(range(0, 101, 10))
DETAILS = ("view", "age", "sex", "exam_id", "sha256")  # columns in which a value may be missing
ADULT = 18
SHOWN_VIEWS = 8


def resolved(
    manifest: Manifest, policy: LabelPolicy, label_list: LabelSet | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Targets and mask, both [N, 14], of all rows under ``policy``; labels outside ``label_list`` are masked."""
    raw = marks(manifest.frame)  # [N, 14]
    wanted = [label_list is None or label in label_list.labels for label in CHEXPERT14.labels]
    return resolve(raw, policy, np.asarray(~np.isnan(raw).all(axis=0)) & np.array(wanted))


def marks(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The raw marks [N, 14] of a conformed frame: 1, 0, -1 or NaN."""
    return frame[list(CHEXPERT14.labels)].to_numpy(dtype=np.float64)


def set_figures(manifest: Manifest, policy: LabelPolicy, label_list: LabelSet | None = None) -> Figures:
    """Everything the page says about one set; ``manifest`` is as ``conform`` made it and stays unchanged."""
    frame = manifest.frame
    target, mask = resolved(manifest, policy, label_list)
    disease = [i for i, label in enumerate(CHEXPERT14.labels) if label not in (NORMAL, DEVICES)]
    normal = target[:, CHEXPERT14.index(NORMAL)] == 1  # [N]
    per_image = target.sum(axis=1)  # [N]
    return {
        **sizes(frame),
        "splits": {split: _split(frame, target, mask, split) for split in frame["split"].unique().tolist()},
        "labels": _labels(marks(frame), target, mask),
        "cooccurrence": _cooccurrence(target, mask),
        "labels_per_image": np.bincount(per_image).tolist(),
        "contradictions": int((normal & (target[:, disease].sum(axis=1) > 0)).sum()),
        "views": _shares(frame["view"]),
        "sex": _shares(frame["sex"]),
        "ages": _ages(frame["age"]),
        "missing": {name: _missing(frame, name) for name in DETAILS},
        "repeated_images": _repeated(frame),
        "policy": asdict(policy),
        "label_list": None if label_list is None else label_list.name,
        "content_sha256": content_hash(frame),
        "provenance": dict(manifest.provenance),
    }


def sizes(frame: pd.DataFrame) -> Figures:
    """Images, patients and exams; ``exams`` is None where the source does not say which images belong together."""
    exams = frame["exam_id"] if "exam_id" in frame else pd.Series([], dtype="str")
    known = int(exams[exams != ""].nunique())
    return {"images": len(frame), "patients": int(frame["patient_id"].nunique()), "exams": known or None}


def shift(sets: Mapping[str, Figures], home: str) -> Figures:
    """Prevalence in the training splits of ``home`` against the test split (else val) of every set.

    ``ratio`` is evaluation by training, None where either side has no positive or does not judge the label.
    """
    trained = sets[home]["splits"]
    learnt = [split for split in TRAIN if split in trained] or list(trained)
    base = _pool(trained[split]["labels"] for split in learnt)
    rows = {}
    for name, figures in sets.items():
        asked = next((split for split in reversed(EVALUATION) if split in figures["splits"]), None)
        if asked is not None:
            there = figures["splits"][asked]["labels"]
            labels = {label: _change(base[label], there[label]) for label in CHEXPERT14.labels}
            rows[name] = {"split": asked, "labels": labels}
    return {"home": home, "splits": learnt, "labels": base, "evaluation": rows}


def _split(frame: pd.DataFrame, target: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_], split: str) -> Figures:
    rows = (frame["split"] == split).to_numpy()  # [N]
    counts = {
        label: _prevalence(int(target[rows, i].sum()), int(mask[rows, i].sum()))
        for i, label in enumerate(CHEXPERT14.labels)
    }
    unlabelled = int((target[rows].sum(axis=1) == 0).sum())
    return {**sizes(frame[rows]), "without_positive": unlabelled, "labels": counts}


def _labels(
    raw: npt.NDArray[np.float64], target: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]
) -> dict[str, Figures]:
    """Of each label: the marks as the source wrote them (``raw``), and what the policy makes of them."""
    found = {}
    for i, label in enumerate(CHEXPERT14.labels):
        positive, judged = int(target[:, i].sum()), int(mask[:, i].sum())
        found[label] = {
            "raw": {
                "positive": int((raw[:, i] == 1.0).sum()),
                "negative": int((raw[:, i] == 0.0).sum()),
                "uncertain": int((raw[:, i] == -1.0).sum()),
                "blank": int(np.isnan(raw[:, i]).sum()),
            },
            **_prevalence(positive, judged),
            "negative": judged - positive,
            "masked": len(raw) - judged,
        }
    return found


def _prevalence(positive: int, judged: int) -> Figures:
    return {"positive": positive, "judged": judged, "prevalence": positive / judged if judged else None}


def _cooccurrence(target: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    """Images positive in both labels, over the labels that are judged at all; the diagonal holds the positives."""
    together = np.rint(target.T.astype(np.float64) @ target).astype(int)  # [14, 14]; floats for a fast product
    judged = [(i, label) for i, label in enumerate(CHEXPERT14.labels) if mask[:, i].any()]
    return {row: {column: int(together[i, j]) for j, column in judged} for i, row in judged}


def _shares(column: pd.Series) -> dict[str, int]:
    """Rows of each value, the commonest first; the rare beyond ``SHOWN_VIEWS`` together, the empty last."""
    counts = column[column != ""].value_counts()
    shares = {str(value): int(n) for value, n in counts[:SHOWN_VIEWS].items()}
    rest = {"other": int(counts[SHOWN_VIEWS:].sum()), "unknown": int((column == "").sum())}
    return shares | {name: n for name, n in rest.items() if n}


def _ages(column: pd.Series) -> Figures:
    """Ages in years: quartiles, the share below ``ADULT``, and images by decade of age."""
    known = column.dropna().to_numpy(dtype=np.float64)
    if not len(known):
        return {"known": 0, "histogram": {}}
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
    counts = np.histogram(known, bins=[*DECADES, 200])[0]
    return {
        "known": len(known),
        "min": int(known.min()),
        "quartile_1": low,
        "median": middle,
        "quartile_3": high,
        "max": int(known.max()),
        "minors": float((known < ADULT).mean()),
        "histogram": {str(decade): int(n) for decade, n in zip(DECADES, counts, strict=True)},
    }


def _missing(frame: pd.DataFrame, name: str) -> int:
    if name not in frame:
        return len(frame)
    return int((frame[name].isna() if name == "age" else frame[name] == "").sum())


def _repeated(frame: pd.DataFrame) -> int | None:
    """Rows whose image file has the bytes of an earlier row's; None where the images were not looked at."""
    known = frame["sha256"][frame["sha256"] != ""] if "sha256" in frame else pd.Series([], dtype="str")
    return int(known.duplicated().sum()) if len(known) else None


def _pool(parts: Iterable[Mapping[str, Figures]]) -> dict[str, Figures]:
    parts = list(parts)
    return {
        label: _prevalence(sum(p[label]["positive"] for p in parts), sum(p[label]["judged"] for p in parts))
        for label in CHEXPERT14.labels
    }


def _change(base: Figures, there: Figures) -> Figures:
    comparable = base["positive"] > 0 and there["positive"] > 0
    return {**there, "ratio": there["prevalence"] / base["prevalence"] if comparable else None}
