"""The figures of one prepared set, and how training differs from evaluation: pure functions to JSON-ready mappings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from chexreason.data.leakage import EVALUATION, TRAIN
from chexreason.data.manifest import Manifest, content_hash
from chexreason.data.prepare import POOL
from chexreason.data.prevalence import pool_counts, pool_marks
from chexreason.data.sources.film_folder import OWN_PATIENT
from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import LabelPolicy, resolve

AuditFigures = dict[str, Any]
DEVICES = "Support Devices"  # a device is no disease: CheXpert's labeller lets it stand beside No Finding
ADULT = 18
_NORMAL = "No Finding"
_MARKS = ("positive", "negative", "uncertain", "blank")  # as ``pool_marks`` counts them
_DECADES = tuple(range(0, 101, 10))
_DETAILS = ("view", "age", "sex", "exam_id", "sha256")  # columns in which a value may be missing
_SHOWN_VIEWS = 8
_NAMED = 3  # studies of a kind named on the page


def resolved(
    manifest: Manifest, policy: LabelPolicy, label_list: LabelSet | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Targets and mask, both [N, 14], of all rows under ``policy``; labels outside ``label_list`` are masked."""
    raw = manifest.frame[list(CHEXPERT14.labels)].to_numpy(dtype=np.float64)  # [N, 14]
    wanted = [label_list is None or label in label_list.labels for label in CHEXPERT14.labels]
    return resolve(raw, policy, np.asarray(~np.isnan(raw).all(axis=0)) & np.array(wanted))


def set_figures(manifest: Manifest, policy: LabelPolicy, label_list: LabelSet | None = None) -> AuditFigures:
    """Everything the page says about one set; ``manifest`` is as ``conform`` made it and stays unchanged."""
    frame = manifest.frame
    target, mask = resolved(manifest, policy, label_list)  # [N, 14] each
    disease = [label not in (_NORMAL, DEVICES) for label in CHEXPERT14.labels]
    normal = target[:, CHEXPERT14.index(_NORMAL)] == 1  # [N]
    rated = mask.any(axis=1)  # [N]
    all_target, all_mask = resolved(manifest, policy)  # whatever the set is scored on
    complete = all_mask[:, all_mask.any(axis=0)].all(axis=1) & all_mask[:, CHEXPERT14.index(_NORMAL)]  # [N]
    zeros = complete & ~all_target.any(axis=1)  # [N]
    splits = {split: (frame["split"] == split).to_numpy() for split in frame["split"].unique().tolist()}  # [N] each
    images = frame.get("sha256", pd.Series([], dtype="str"))
    images = images[images != ""]
    details = frame.reindex(columns=list(_DETAILS))
    blank = frame[(frame["sha256"] != "") & (frame["phash"] == "")] if "phash" in frame else frame[:0]
    judged_by = (label_list or CHEXPERT14).labels
    pool: Any = manifest.provenance.get(POOL)  # an earlier version did not count it
    counts = pool_counts(pool, policy, judged_by) if pool and pool["images"] else {}
    return {
        **_sizes(frame),
        "splits": {
            split: {
                **_sizes(frame[rows]),
                "without_positive": int((~target[rows].any(axis=1)).sum()),
                "unjudged": int((~rated[rows]).sum()),
                "only_zeros": int(zeros[rows].sum()),
                "zeros_at": frame["study_id"][rows & zeros].tolist()[:_NAMED],
                "labels": _prevalences(target[rows], mask[rows]),
            }
            for split, rows in splits.items()
        },
        "pool": {label: _prevalence(*pair) for label, pair in counts.items()},
        "labels": _labels(frame, target, mask),
        "cooccurrence": _cooccurrence(target, mask),
        "labels_per_image": np.bincount(target[rated].sum(axis=1)).tolist(),
        "contradictions": int((normal & target[:, disease].any(axis=1)).sum()),
        "views": _shares(frame["view"]),
        "sex": _shares(frame["sex"]),
        "ages": _ages(frame["age"]),
        "missing": {name: int(n) for name, n in (details.isna() | (details == "")).sum().items()},
        "repeated_images": int(images.duplicated().sum()) if len(images) else None,  # None: nobody read the images
        "blank": len(blank),
        "blank_at": blank["study_id"].tolist()[:_NAMED],
        "own_patients": int(frame["patient_id"].str.contains(f":{OWN_PATIENT}").sum()),
        "transparent": manifest.provenance.get("transparent", 0),  # an earlier version did not count them
        "policy": asdict(policy),
        "label_list": None if label_list is None else label_list.name,
        "content_sha256": content_hash(frame),
        "provenance": dict(manifest.provenance),
    }


def shift(sets: Mapping[str, AuditFigures], home: str) -> AuditFigures:
    """Prevalence in the pool of ``home`` against the test split (else val) of every set.

    A sampler levels the labels of the training splits, so these stand for the pool only where it is not known.
    ``ratio`` is evaluation by training, None where either side has no positive or does not judge the label.
    """
    trained = sets[home]["splits"]
    learnt = [split for split in TRAIN if split in trained] or list(trained)
    base = sets[home]["pool"] or {
        label: _prevalence(
            *(sum(trained[split]["labels"][label][n] for split in learnt) for n in ("positive", "judged"))
        )
        for label in CHEXPERT14.labels
    }
    rows = {}
    for name, figures in sets.items():
        asked = next((split for split in reversed(EVALUATION) if split in figures["splits"]), None)
        if asked is not None:
            there = figures["splits"][asked]["labels"]
            rows[name] = {"split": asked, "labels": {label: _change(base[label], there[label]) for label in base}}
    return {"home": home, "splits": ["pool"] if sets[home]["pool"] else learnt, "labels": base, "evaluation": rows}


def _sizes(frame: pd.DataFrame) -> AuditFigures:
    """Images, patients and exams; ``exams`` is None where the source does not say which images belong together."""
    exams = frame.get("exam_id", pd.Series([], dtype="str"))
    known = int(exams[exams != ""].nunique())
    return {"images": len(frame), "patients": int(frame["patient_id"].nunique()), "exams": known or None}


def _prevalence(positive: int, judged: int) -> AuditFigures:
    return {"positive": positive, "judged": judged, "prevalence": positive / judged if judged else None}


def _prevalences(target: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]) -> dict[str, AuditFigures]:
    """Positive and judged rows of each label, of targets and mask [N, 14]."""
    counts = zip(target.sum(axis=0).tolist(), mask.sum(axis=0).tolist(), strict=True)
    return {label: _prevalence(*pair) for label, pair in zip(CHEXPERT14.labels, counts, strict=True)}


def _labels(frame: pd.DataFrame, target: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]) -> dict[str, AuditFigures]:
    """Of each label: the marks as the source wrote them (``raw``), and what the policy makes of them."""
    marks: Any = pool_marks(frame)["marks"]
    return {
        label: {
            "raw": dict(zip(_MARKS, marks[label], strict=True)),
            **counts,
            "negative": counts["judged"] - counts["positive"],
            "masked": len(frame) - counts["judged"],
        }
        for label, counts in _prevalences(target, mask).items()
    }


def _cooccurrence(target: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    """Images positive in both labels, over the labels that are judged at all; the diagonal holds the positives."""
    together = np.rint(target.T.astype(np.float64) @ target).astype(int)  # [14, 14]; floats for a fast product
    judged = [label for i, label in enumerate(CHEXPERT14.labels) if mask[:, i].any()]
    table = pd.DataFrame(together, CHEXPERT14.labels, CHEXPERT14.labels)
    return {row: table.loc[row, judged].to_dict() for row in judged}


def _shares(column: pd.Series) -> dict[str, int]:
    """Rows of each value, the commonest first; the rare beyond ``_SHOWN_VIEWS`` together, the empty last."""
    counts = column[column != ""].value_counts()
    shares = {str(value): int(n) for value, n in counts[:_SHOWN_VIEWS].items()}
    rest = {"other": int(counts[_SHOWN_VIEWS:].sum()), "unknown": int((column == "").sum())}
    return shares | {name: n for name, n in rest.items() if n}


def _ages(column: pd.Series) -> AuditFigures:
    """Ages in years: quartiles, the share below ``ADULT``, and images by decade of age."""
    known = column.dropna().to_numpy(dtype=np.float64)
    if not len(known):
        return {"known": 0, "histogram": {}}
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75)).tolist()
    counts = np.histogram(known, bins=[*_DECADES, 200])[0]
    return {
        "known": len(known),
        "min": int(known.min()),
        "quartile_1": low,
        "median": middle,
        "quartile_3": high,
        "max": int(known.max()),
        "minors": float((known < ADULT).mean()),
        "histogram": {str(decade): int(n) for decade, n in zip(_DECADES, counts, strict=True)},
    }


def _change(base: AuditFigures, there: AuditFigures) -> AuditFigures:
    comparable = base["positive"] > 0 and there["positive"] > 0
    return {**there, "ratio": there["prevalence"] / base["prevalence"] if comparable else None}
