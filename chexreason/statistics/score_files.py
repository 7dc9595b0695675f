"""Label scores on disk (Parquet), beside the predictions they belong to, and as arrays for ranking and calibration."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from chexreason.files import whole
from chexreason.statistics.metrics import FloatArray
from chexreason.types import Prediction

# Of the answer with the label against the answer without it; of the label in sampled answers.
SCORE_KINDS = ("log_odds", "frequency")
MADE_FOR = "answers_sha256"  # in the DONE of scores: the predictions they belong to
_KEYS = ("study_id", "dataset", "kind")
_WAY_OUT = "run chexreason.cli.scores for this arm anew with restart=true"


def score_rows(predictions: Sequence[Prediction], kind: str, labels: Sequence[str], values: FloatArray) -> pd.DataFrame:
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
    """The rows of ``path``; raises FileNotFoundError or ValueError with the way out."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; run chexreason.cli.scores for this arm first")
    try:
        frame = pd.read_parquet(path)
        missing = [key for key in _KEYS if key not in frame]
    except Exception as error:  # pyarrow's own kinds, and those of what it decodes
        raise ValueError(f"{path} is damaged ({type(error).__name__}); {_WAY_OUT}") from None
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; {_WAY_OUT}")
    return frame


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
