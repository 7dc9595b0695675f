"""Publish or reuse what a run made: ``python -m chexreason.cli.export 'adapters=[FOLDER]' to=FOLDER``."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from chexreason import runs
from chexreason.cli import command
from chexreason.files import file_sha256, whole_folder, write_sealed, write_text
from chexreason.owners import remove_leftovers
from chexreason.signals import on_leave
from chexreason.types import Prediction

log = logging.getLogger(__name__)
_FEW = 10  # figures of fewer patients are in no card


def publish(cfg: DictConfig) -> Path:
    """Write what ``cfg`` asks for to ``cfg.to``, and with ``push`` to the hub; returns its place.

    Raises ValueError where a setting is missing or does not fit, and where the place holds something else; ExportError
    where weights would be pushed that learned from a set that is not declared public.
    """
    from chexreason.statistics.predictions import read_predictions

    if not cfg.to or not (cfg.adapters or cfg.predictions):
        raise ValueError("say what and where: 'adapters=[FOLDER]' to=FOLDER, or predictions=FILE to=FILE")
    to = Path(cfg.to).absolute()
    if cfg.adapters:
        _export_weights(cfg, to)
    elif cfg.push or to.is_dir():
        raise ValueError(f"answers go to a file, and to no hub: leave push= out and give to={cfg.to}/samples.jsonl")
    else:
        rows = samples(read_predictions(Path(cfg.predictions)))
        write_text(to, "".join(json.dumps(row) + "\n" for row in rows))
    log.info("written: %s", to)
    return to


def samples(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    """The answers as lmms-eval logs them with ``--log_samples``; null metrics where nothing was judged."""
    from chexreason.rewards.base import set_jaccard

    rows = []
    for number, row in enumerate(predictions):
        said, truth = frozenset(() if row.broken is not None else row.predicted), frozenset(row.truth)
        scores = {"exact_match": float(said == truth), "jaccard": set_jaccard(said, truth)}
        scores["readable"] = float(row.broken is None)
        sample = {"doc_id": number, "doc": {"dataset": row.dataset, "study_id": row.study_id}}
        sample |= {"target": ", ".join(row.truth), "resps": [[row.text]], "filtered_resps": [", ".join(sorted(said))]}
        rows.append(sample | (scores if row.labelled else dict.fromkeys(scores)))
    return rows


def _export_weights(cfg: DictConfig, to: Path) -> None:
    from chexreason.model.adapters import ADAPTER_CONFIG, CARD, WEIGHTS, check_sound, read_card, trained_on

    if len(cfg.adapters) > 1 and not cfg.merged:
        raise ValueError("an adapter written by this package holds the earlier ones: give one, or merged=true")
    for folder in cfg.adapters:
        check_sound(Path(folder))
    card = read_card(cfg.adapters[-1])
    source = [cfg.model.source] if cfg.merged and (Path(cfg.model.source) / CARD).is_file() else []
    card["training_sets"] = sets = [row for folder in (*source, *cfg.adapters) for row in trained_on(folder)]
    agreement = _may_leave(cfg, sets) if cfg.push else None
    base = cfg.base or (cfg.model.source if cfg.merged else card["source"])
    if Path(base).expanduser().is_dir() or base.startswith(("/", ".", "~")):
        raise ValueError(f"the base was loaded from {base}, which others do not have: name it with base=USER/NAME")
    if not _is_free(to):
        raise ValueError(f"to={cfg.to} holds something else than an export: give a new folder")
    remove_leftovers(to.parent)
    with whole_folder(to) as staging, on_leave(lambda name: shutil.rmtree(staging, ignore_errors=True)):
        merged = _merge(cfg, staging) if cfg.merged else {}
        if not cfg.merged:
            shutil.copyfile(Path(cfg.adapters[0]) / WEIGHTS, staging / WEIGHTS)
            config = json.loads((Path(cfg.adapters[0]) / ADAPTER_CONFIG).read_bytes())
            config["base_model_name_or_path"] = base
            (staging / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        card |= {"source": base, "files": {path.name: file_sha256(path) for path in sorted(staging.iterdir())}}
        write_sealed(staging / CARD, card)
        facts = {"card": card, "sets": sets, "base": base, "agreement": agreement, "merged": cfg.merged, **merged}
        facts |= {"figures": _figures(cfg, card), "place": cfg.push or to.name, "licence": cfg.licence}
        (staging / "README.md").write_text(_model_card(facts))
    if cfg.push:
        from huggingface_hub import HfApi

        HfApi().create_repo(cfg.push, private=True, exist_ok=True)
        HfApi().upload_folder(folder_path=to, repo_id=cfg.push)


def _is_free(to: Path) -> bool:
    """True for a new or empty folder, and for an earlier export with no file beside it."""
    from chexreason.model.adapters import CARD, read_card

    held = {path.name for path in to.iterdir()} if to.is_dir() else {"a file"} if to.exists() else set()
    return held <= ({CARD, "README.md", *read_card(to)["files"]} if held >= {CARD, "README.md"} else set())


def _may_leave(cfg: DictConfig, sets: Sequence[dict[str, Any]]) -> str | None:
    """The agreement under which weights that learned from ``sets`` are pushed; None where all are declared public."""
    from chexreason.data.credentialed import ExportError, named_agreement

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", cfg.push):
        raise ValueError(f"push={cfg.push} is no USER/NAME of the hub")
    held = sorted({str(row["set"]) for row in sets if row.get("public") is not True})
    agreement = named_agreement(cfg.allow_export)
    if held and agreement is None:
        raise ExportError(
            f"these weights learned from sets whose card does not declare them public ({', '.join(held)}): leave push= "
            f"out, or name the agreement that allows it: allow_export='...' (found {cfg.allow_export!r})"
        )
    return agreement if held else None


def _merge(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Write the model with its adapters added, and its processor; returns the dtype and what rounding took."""
    import torch

    from chexreason.build.model import build_policy, quiet
    from chexreason.model.adapters import read_card
    from chexreason.model.load import merge

    if cfg.model.get("quantise") or any(read_card(adapter).get("quantise") for adapter in cfg.adapters):
        raise ValueError("nothing can be added to weights in 4 bits exactly: leave merged=true out")
    quiet()
    wide = cfg.copy()
    wide.model.dtype = "float32"
    policy = build_policy(wide)
    model, rounding = merge(policy, getattr(torch, cfg.model.dtype))
    model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    if rounding > 0.01:
        log.warning("rounding changes the weights by %.1g of what the adapters add: model.dtype=float32", rounding)
    return {"dtype": cfg.model.dtype, "rounding": f"{rounding:.2g}"}


def _figures(cfg: DictConfig, card: dict[str, Any]) -> list[dict[str, Any]]:
    """The scores of each set on which exactly these adapters were evaluated, with intervals.

    Raises ValueError where ``cfg.predictions`` are of other adapters.
    """
    from chexreason.statistics.bootstrap import intervals, replicates
    from chexreason.statistics.predictions import datasets, read_predictions

    study = Path(cfg.adapters[-1], "../../../..").resolve()
    places = [Path(cfg.predictions)] if cfg.predictions else sorted(study.glob(f"eval/*/{runs.PREDICTIONS}"))
    hashes, rows = [runs.adapter_sha256(folder) for folder in cfg.adapters], []
    for path in (path for path in places if runs.is_done(path.parent)):
        if runs.stored_config(path.parent).get(runs.ADAPTERS) == hashes:
            rows += [(path.parent.name, *item) for item in datasets(read_predictions(path)).items()]
    if cfg.predictions and not rows:
        raise ValueError(f"predictions={cfg.predictions} are not those of a finished evaluation of these adapters")
    figures = []
    for arm, name, answers in rows:
        labels = [label for label in card["labels"]["order"] if any(label in row.labelled for row in answers)]
        if labels and (sample := replicates(answers, labels)).n_patients >= _FEW:
            size = {"studies": len(sample.studies), "patients": sample.n_patients}
            found = {k: f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" for k, i in intervals(sample).items()}
            figures.append({"set": f"{name} ({arm})", **size, **found})
    return figures


def _model_card(facts: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True)
    versions = {name: version(name) for name in ("chexreason", "torch", "transformers", "peft")}
    return environment.get_template("model_card.md.j2").render(**versions, **facts) + "\n"


main = command(runs.RunError)(publish)

if __name__ == "__main__":
    main()
