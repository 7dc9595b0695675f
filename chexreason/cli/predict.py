"""Predict films that nobody labelled: ``python -m chexreason.cli.predict images=FOLDER 'adapters=[...]'``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from chexreason import runs
from chexreason.cli import command
from chexreason.owners import own_folder

if TYPE_CHECKING:
    import pandas as pd

    from chexreason.data.manifest import Manifest
    from chexreason.reports.film_rows import Cut
    from chexreason.statistics.operating_point import OperatingPoint, ScoreOrigin
    from chexreason.types import Prediction

log = logging.getLogger(__name__)
SET = "films"  # the name of the data set that the films are
_OF_FILMS = ("images", "path_column", "date_column", "operating_point", "hospital", "trained_on", "workers")
_OF_SCORES = ("samples", "temperature", "reasoning", "predictions")


def predict(cfg: DictConfig) -> pd.DataFrame:
    """One row a film (``film_rows``), also in predictions.csv, .jsonl and .html in ``<run_dir>``.

    Films that cannot be read are in broken.csv there, and have no row. Raises ValueError where there is no film, where
    the operating point is of another model, adapter, prompt or list of labels, or is damaged; RunError where the films
    are not those that an earlier start has answered.
    """
    from chexreason.build.data import build_labels, build_manifests
    from chexreason.cli.evaluate import declared, evaluate
    from chexreason.reports.film_page import write_films
    from chexreason.reports.film_rows import by_week, film_rows
    from chexreason.statistics.operating_point import read_point

    cfg = _of_films(cfg)
    folder = own_folder(Path(cfg.run_dir), private=True)  # nobody declared the films public
    point = read_point(Path(cfg.operating_point)) if cfg.operating_point else None
    manifest = build_manifests(cfg, on_error="quarantine", workers=cfg.workers)[SET]
    dates, asked = _dates(cfg), declared(cfg, [SET])[SET]
    scored = _scored(cfg, point, asked) if point else None  # what can be refused is so before any film is answered
    answers = evaluate(_part(cfg, "answers", _OF_SCORES))
    if answers[0].data_sha256 != asked["data_sha256"]:
        raise runs.RunError(f"the films of {cfg.images} changed since {folder} answered them: say restart=true")
    cut = _cut(cfg, point, answers, *scored) if point and scored else None
    label_set = build_labels(cfg)
    film_of = dict(zip(manifest.frame["study_id"], manifest.frame["path"], strict=True))
    films = [film_of[p.study_id] for p in answers]
    rows = film_rows(answers, films, label_set, str(cfg.prompt.grammar), cut, _unlike(cfg, manifest))
    weeks = by_week(rows, dates.reindex(films), label_set.labels) if dates is not None else None
    prepared, left_out = Path(cfg.data.folder) / SET, _left_out(cfg, manifest)
    write_films(folder, rows, _said(cfg, cut), weeks, prepared, manifest.root, left_out)
    return rows


def _of_films(cfg: DictConfig) -> DictConfig:
    """The config with the films of ``images=`` as its only data set, prepared inside the run directory."""
    from chexreason.build.data_config import complete_data

    if cfg.images is None:
        raise ValueError("images= is missing: say a folder of films, or a csv with their paths")
    path, cfg = Path(cfg.images).absolute(), cfg.copy()
    if not path.exists():
        raise FileNotFoundError(f"images={cfg.images}: no folder and no csv at {path}")
    if path.is_dir():
        if given := [key for key in ("path_column", "date_column") if cfg[key] is not None]:
            raise ValueError(f"{', '.join(given)}: {path} is a folder, and only a csv has columns")
        source = {"_target_": "chexreason.data.sources.film_folder.FilmFolder", "root": str(path)}
    else:
        source = {"_target_": "chexreason.data.sources.table.TableSource", "csv": str(path), "root": str(path.parent)}
        source |= {"label_columns": {}, "patient_column": "", "path_column": cfg.path_column or "path"}
    OmegaConf.set_struct(cfg, False)
    cfg.data = {"name": SET, "sets": {SET: {"public": False, "policy": "ignore", "source": source}}}
    cfg.data.folder = str(Path(cfg.run_dir) / "data")
    complete_data(cfg)
    return cfg


def _part(cfg: DictConfig, name: str, left_out: tuple[str, ...] = (), **more: Any) -> DictConfig:
    """The config of one of the two runs that a prediction is made of."""
    keys = [str(key) for key in cfg if key not in (*_OF_FILMS, *left_out)]
    return OmegaConf.merge(OmegaConf.masked_copy(cfg, keys), {"run_dir": str(Path(cfg.run_dir) / name), **more})  # type: ignore[return-value]


def _scored(cfg: DictConfig, point: OperatingPoint, asked: Mapping[str, str]) -> tuple[DictConfig, ScoreOrigin]:
    """The config of the scores and how they come about; raises ValueError where the operating point is of others."""
    from chexreason.build.data import build_labels
    from chexreason.cli.calibrate import score_origin
    from chexreason.statistics.operating_point import check_origin
    from chexreason.types import Prediction

    part = _part(
        cfg,
        "scores",
        predictions=str(Path(cfg.run_dir) / "answers" / runs.PREDICTIONS),
        reasoning=point.origin.reasoning,
        samples=cfg.samples if point.origin.kind == "frequency" else 0,
        batch_size=8,
    )
    kept = OmegaConf.to_container(part, resolve=True)
    kept[runs.ADAPTERS] = [runs.adapter_sha256(folder) for folder in cfg.adapters]  # type: ignore[index, call-overload]
    film = Prediction("", "", SET, "", (), (), (), **asked)  # type: ignore[arg-type]
    origin = score_origin(kept, [film], build_labels(cfg).labels, point.origin.kind)  # type: ignore[arg-type]
    check_origin(point, origin, any_convention=True)
    return part, origin


def _cut(
    cfg: DictConfig, point: OperatingPoint, answers: list[Prediction], part: DictConfig, origin: ScoreOrigin
) -> Cut:
    """The scores of the films and the labels that the operating point names."""
    from chexreason.cli.scores import score_labels
    from chexreason.reports.film_rows import Cut
    from chexreason.statistics.decisions import coherent
    from chexreason.statistics.operating_point import apply, probabilities
    from chexreason.statistics.score_files import aligned

    labels = point.origin.labels
    scores = aligned(score_labels(part), answers, labels, point.origin.kind)
    named = apply(point, scores, [p.study_id for p in answers], origin, any_convention=True)
    at_home = cfg.hospital is not None and cfg.hospital == point.origin.dataset
    return Cut(named, coherent(scores - point.cuts, labels), probabilities(point, scores) if at_home else scores,
               labels, point.origin.dataset, at_home)  # fmt: skip


def _unlike(cfg: DictConfig, manifest: Manifest) -> dict[str, str]:
    """In what the films that are unlike those of ``trained_on`` are so, by their paths."""
    from chexreason.build.data import build_labels
    from chexreason.cli.evaluate import ready
    from chexreason.cli.shift import usual_films
    from chexreason.data.manifest import read_manifest, studies
    from chexreason.data.prepare import MANIFEST_NAME
    from chexreason.labels.uncertainty import label_policy
    from chexreason.model.features import pooled_films
    from chexreason.statistics.oddity import ODDITIES, oddities

    if cfg.trained_on is None:
        return {}
    policy, home = ready(cfg)[0], read_manifest(Path(cfg.trained_on) / MANIFEST_NAME)
    films = studies(manifest, build_labels(cfg), label_policy("ignore"), ("test",))
    far = oddities(*usual_films(policy, home, f"trained_on={cfg.trained_on}"), pooled_films(policy, films))
    paths = (os.path.relpath(film.image, manifest.root) for film in films)
    return {path: ODDITIES[int(row.argmax())] for path, row in zip(paths, far, strict=True) if row.max() > 1}


def _dates(cfg: DictConfig) -> pd.Series | None:
    """The dates of the films by their paths; raises ValueError on a cell that is none."""
    import pandas as pd

    from chexreason.data.sources.columns import Faults, VendorCsv
    from chexreason.data.sources.table import TableSource

    if cfg.date_column is None:
        return None
    column = cfg.path_column or "path"
    faults = Faults(f"images={cfg.images}")
    frame = VendorCsv(Path(cfg.images), [column, cfg.date_column], faults).rows
    faults.stop()
    source = TableSource(SET, Path(cfg.images), path_column=column, patient_column="", label_columns={})
    _, file = source.paths(frame, faults)  # a cell may lack its suffix, or be absolute
    found = pd.to_datetime(frame[cfg.date_column], errors="coerce", format="mixed")
    if found.isna().any():
        raise ValueError(
            f"{cfg.images}: '{frame[cfg.date_column][found.isna()].iloc[0]}' in {cfg.date_column} is no date"
        )
    return found.set_axis(file)


def _left_out(cfg: DictConfig, manifest: Manifest) -> list[str]:
    """The films of a folder that have no row: too small, or broken."""
    from chexreason.data.sources.film_folder import FilmFolder

    known, folder = {*manifest.frame["path"]}, Path(cfg.images)
    return [path for path in FilmFolder(SET, folder).files() if path not in known] if folder.is_dir() else []


def _said(cfg: DictConfig, cut: Cut | None) -> list[str]:
    """What a reader of the rows has to know of them, in sentences."""
    unlike = "Marked films are unlike the training films: a label there says little."
    said = [unlike if cfg.trained_on else "No film was compared with the training films: say trained_on=FOLDER."]
    if cut is None:
        return [*said, "Labels are the answer's own. No operating point was given, so no score stands beside them."]
    if cut.at_home:
        home = (
            f"Cuts and probabilities were fitted at {cut.hospital}, the hospital that these films are said to be from."
        )
        return [*said, home]
    return [
        *said,
        f"Cuts were fitted at {cut.hospital}. What they attain on these films is not known: say "
        f"hospital={cut.hospital} if that hospital took them, or calibrate on labelled films of this one. A score is "
        "no probability.",
    ]


@command(runs.RunError)
def main(cfg: DictConfig) -> None:
    """Predict the films and say where the rows are."""
    rows = predict(cfg)
    log.info("%d films in %s", len(rows), Path(cfg.run_dir) / "predictions.csv")


if __name__ == "__main__":
    main()
