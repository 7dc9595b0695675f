"""Make predictions of another tool an arm: ``python -m chexreason.cli.adopt file=FILE arm=NAME data=...``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from chexreason import runs
from chexreason.cli import command
from chexreason.cli.evaluate import declared, keep_scores, report_scores, score_sets, written_once
from chexreason.files import file_sha256, finite, write_json
from chexreason.types import Prediction

_FILE = "file_sha256"  # in DONE: of the file that was adopted


def adopt(cfg: DictConfig) -> list[Prediction]:
    """Write what an evaluation of this arm would, and its label scores where the file gives probabilities.

    Raises ValueError listing what is wrong with the file, before anything is written; RunError where the arm was made
    of another file.
    """
    from chexreason.build.data import build_labels, build_prompt, load_manifest, load_studies
    from chexreason.statistics.adopted import read_adopted
    from chexreason.statistics.predictions import write_predictions

    if cfg.file is None:
        raise ValueError("say which file: file=PREDICTIONS, a csv or JSON lines")
    label_set, run_dir = build_labels(cfg), Path(cfg.run_dir)
    studies = [study for name in cfg.data.test for study in load_studies(cfg, name, (cfg.split,), label_set)]
    frames = [load_manifest(cfg, name).frame for name in cfg.data.test]
    relative = {row: path for frame in frames for row, path in zip(frame["study_id"], frame["path"], strict=True)}
    ways = {"cut": cfg.cut, "clip": cfg.clip, "drop_surplus": cfg.drop_surplus}
    found, log_odds = read_adopted(
        Path(cfg.file), studies, relative, build_prompt(cfg).answer_format(label_set), **ways
    )
    origin, sha256 = declared(cfg, cfg.data.test), file_sha256(Path(cfg.file))
    predictions = [replace(row, **origin[row.dataset]) for row in found]
    facts: dict[str, object] = {"studies": len(predictions), _FILE: sha256}
    with written_once(cfg, run_dir, facts) as is_new:
        if is_new:
            write_predictions(run_dir / runs.PREDICTIONS, predictions)
            write_json(run_dir / runs.METRICS, finite(score_sets(predictions, label_set)))
    if log_odds is not None:
        keep_scores(cfg, predictions, "log_odds", log_odds)
    return predictions


@command(runs.RunError)
def main(cfg: DictConfig) -> None:
    """Adopt, and print the headline figures of each set."""
    report_scores(cfg, adopt(cfg))


if __name__ == "__main__":
    main()
