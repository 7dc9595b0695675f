"""Label scores on disk (Parquet), beside the predictions they belong to, and as arrays for ranking and calibration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from chexreason.files import whole
from chexreason.statistics.metrics import FloatArray
from chexreason.types import Prediction, Study

# Of the answer with the label against the answer without it; of the label in sampled answers.
SCORE_KINDS = ("log_odds", "frequency")
MADE_FOR = "answers_sha256"  # in the DONE of scores: the predictions they belong to
REASONING = "reasoning"  # in that DONE and in the file: which reasoning was scored; before it was recorded, the own
_KEYS = ("study_id", "dataset", "kind")
_WAY_OUT = "run chexreason.cli.scores for this arm anew with restart=true"


def score_rows(
    predictions: Sequence[Prediction | Study], kind: str, labels: Sequence[str], values: FloatArray
) -> pd.DataFrame:
    """One row a study of scores ``values`` [N, L] of ``kind``; raises ValueError on a wrong kind or shape."""
    if kind not in SCORE_KINDS or values.shape != (len(predictions), len(labels)):
        raise ValueError(f"{kind} scores {tuple(values.shape)} of {len(predictions)} studies, {len(labels)} labels")
    keys = pd.DataFrame([(p.study_id, p.dataset, kind) for p in predictions], columns=list(_KEYS))
    return pd.concat([keys, pd.DataFrame(np.asarray(values, dtype=np.float64), columns=list(labels))], axis=1)


def write_scores(path: Path, frame: pd.DataFrame) -> None:
    """Write the rows of all kinds, atomically."""
    with whole(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_scores(path: Path) -> pd.DataFrame:
    """The rows of ``path``, with REASONING among their ``attrs``; raises FileNotFoundError or ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; run chexreason.cli.scores for this arm first")
    try:
        frame = pd.read_parquet(path)
        missing = [key for key in _KEYS if key not in frame]
    except Exception as error:  # pyarrow's own kinds, and those of what it decodes
        raise ValueError(f"{path} is damaged ({type(error).__name__}); {_WAY_OUT}") from None
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; {_WAY_OUT}")
    frame.attrs.setdefault(REASONING, "own")
    return frame


def one_reasoning(frames: Iterable[pd.DataFrame]) -> str:
    """The reasoning that all ``frames`` were scored after; raises ValueError where they were after different ones."""
    found = sorted({frame.attrs.get(REASONING, "own") for frame in frames})
    if len(found) > 1:
        raise ValueError(f"scores after different reasonings cannot stand together: {', '.join(found)}; {_WAY_OUT}")
    return str(found[0])


def sign_agreement(log_odds: FloatArray, named: ArrayLike, labels: Sequence[str]) -> dict[str, float]:
    """Where the sign of ``log_odds`` [N, L] says what the answers ``named`` [N, L]: shares of answers and of labels.

    ``answers`` counts those with every label so, ``labels`` all labels alike; then comes each label. Empty for N = 0.
    """
    if not len(log_odds):
        return {}
    same = (log_odds > 0) == np.asarray(named, dtype=bool)
    shares = {"answers": same.all(axis=1).mean(), "labels": same.mean(), **dict(zip(labels, same.mean(0), strict=True))}
    return {what: float(share) for what, share in shares.items()}


def answers_sha256(path: Path) -> str:
    """What ties scores to the ``predictions.jsonl`` they were made for: the SHA-256 of its bytes, 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_made_for(recorded: str, predictions: Path, scores: Path) -> None:
    """Refuse (ValueError) scores in the folder ``scores`` that were ``recorded`` for other answers than these."""
    found = answers_sha256(predictions)
    if recorded != found:
        raise ValueError(
            f"{scores} was made for other answers than {predictions} (sha256 {recorded[:8]}, now {found[:8]}): "
            f"{_WAY_OUT}"
        )


def aligned(frame: pd.DataFrame, predictions: Sequence[Prediction], labels: Sequence[str], kind: str) -> FloatArray:
    """The scores [N, L] of ``predictions`` in their order; raises KeyError on studies or labels without one."""
    table = frame[frame["kind"] == kind].set_index("study_id")
    lost = [p.study_id for p in predictions if p.study_id not in table.index]
    unknown = [label for label in labels if label not in table]
    if lost or unknown:
        raise KeyError(f"no {kind} scores for {len(lost)} studies (e.g. {lost[:3]}), labels {unknown}")
    return table.loc[[p.study_id for p in predictions], list(labels)].to_numpy(np.float64, copy=True)
