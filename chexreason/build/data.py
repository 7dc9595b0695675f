"""From the data half of a config to objects: labels, prompt, manifests, studies; imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from chexreason.data import manifest as manifests
from chexreason.data.credentialed import ExportError, declared_public
from chexreason.data.leakage import EVALUATION, TRAIN, check_leaks, find_leaks
from chexreason.data.prepare import MANIFEST_NAME, POOL, prepare_set
from chexreason.data.prevalence import pool_counts, pool_marks
from chexreason.data.sampling import hold_back, subset
from chexreason.labels.catalog import CHEXPERT14, restrict
from chexreason.labels.catalog import label_set as named_labels
from chexreason.labels.crosswalk import crosswalk_of
from chexreason.labels.declare import declare
from chexreason.labels.schema import LabelSet
from chexreason.labels.uncertainty import LabelPolicy, label_policy
from chexreason.progress import track
from chexreason.prompts import Prompt, render
from chexreason.renames import MOVED
from chexreason.types import Sample, Study

log = logging.getLogger(__name__)


def make(node: Any, **kwargs: Any) -> Any:
    """Hydra's ``instantiate`` whose errors are the constructor's own: what a user can mend reads as it was written.

    Raises ValueError with the new name where a config still names what an earlier version called otherwise.
    """
    try:
        return instantiate(node, **kwargs)
    except InstantiationException as error:
        if moved := [f"{old} is now {new}" for old, new in MOVED.items() if f"'{old}'" in str(error)]:
            raise ValueError(f"{moved[0]}: write that after _target_ in the config") from None
        raise error.__cause__ or error from None


def build_labels(cfg: DictConfig) -> LabelSet:
    """The label set the model answers with."""
    return make(cfg.labels)


def build_prompt(cfg: DictConfig) -> Prompt:
    """The instruction format."""
    return Prompt(**OmegaConf.to_container(cfg.prompt, resolve=True))


def build_manifests(
    cfg: DictConfig, *, on_error: str, workers: int, check: bool = True
) -> dict[str, manifests.Manifest]:
    """Prepare every set of the data config; what is up to date is left as it is."""
    prepared = {}
    for name, node in cfg.data.sets.items():
        source = make(node.source, _convert_="all")
        if source.name != name:  # rows, prefixes and the page would carry another name than the config
            raise ValueError(f"set '{name}' of data={cfg.data.name} has a source called '{source.name}': name it alike")
        folder, mode = Path(cfg.data.folder) / name, 0o777 if node.get("public") is True else 0o700
        folder.mkdir(mode, parents=True, exist_ok=True)
        prepared[name] = prepare_set(
            source,
            folder,
            on_error,
            workers,
            partial(track, description=f"prepare {name}"),
            select=make(node.get("select"), _convert_="all"),
            policy=set_policy(cfg, name),
            check=check,
            public=node.get("public", False),
            public_names=node.get("public_names"),
        )
    for name, fault in declared_public(prepared)[1].items():
        raise ExportError(f"set '{name}' is declared public, but {fault}: say data.sets.{name}.public=false")
    return prepared


def set_policy(cfg: DictConfig, name: str) -> LabelPolicy:
    """The label policy of one set of the data config; raises KeyError or ValueError with the choices."""
    node = cfg.data.sets[name].policy
    policy = label_policy(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node)
    if policy.blank == "negative" and (cfg.data.sets[name].get("source") or {}).get("hospitals"):
        told = "one hospital's blank is a label that it never judges: say ignore, zeros or ones"
        raise ValueError(f"label policy '{policy.declared}' of the joined set '{name}' reads blanks as absent; {told}")
    return policy


def load_manifest(cfg: DictConfig, name: str) -> manifests.Manifest:
    """One prepared set, read once a process; raises KeyError for a set the data config does not have."""
    if name not in cfg.data.sets:
        raise KeyError(f"data set '{name}' is not in data={cfg.data.name}; it has: {', '.join(cfg.data.sets)}")
    path = Path(cfg.data.folder) / name / MANIFEST_NAME
    return _read(path, path.stat().st_mtime_ns if path.is_file() else 0)


def public_sets(cfg: DictConfig) -> frozenset[str]:
    """The prepared sets that may leave this machine: declared public in ``cfg`` and when they were prepared."""
    here = [name for name in cfg.data.sets if (Path(cfg.data.folder) / name / MANIFEST_NAME).is_file()]
    public, _ = declared_public({name: load_manifest(cfg, name) for name in here})
    declared = {name for name in here if cfg.data.sets[name].get("public") is True}
    return (public & declared) - set(cfg.data.get("credentialed") or ())


def is_private(cfg: DictConfig) -> bool:
    """True unless every set of the data config is prepared and may leave this machine."""
    sets = OmegaConf.select(cfg, "data.sets") or {}
    try:
        return not sets or public_sets(cfg) != {*sets}
    except ValueError:  # a damaged manifest
        return True


@lru_cache(maxsize=16)
def _read(path: Path, modified: int) -> manifests.Manifest:
    """A manifest as it stood when it was last ``modified`` (ns); whoever needs another frame copies it."""
    return manifests.read_manifest(path)


def load_studies(
    cfg: DictConfig,
    name: str,
    splits: Sequence[str],
    label_set: LabelSet,
    *,
    limit: int | None = None,
    unlabelled: bool = False,
) -> list[Study]:
    """The studies of one prepared set, masked outside its ``label_list``, or ``limit`` of them by ``cfg.seed``.

    Raises KeyError for a set the data config does not have, or a label list that does not exist, and ValueError where
    no study has a judged label; not if ``unlabelled`` sets may be read and this is one: without a mark in any row.
    """
    policy, listed = set_policy(cfg, name), cfg.data.sets[name].get("label_list")
    found = restrict(manifests.studies(load_manifest(cfg, name), label_set, policy, splits), label_set, listed)
    found = found if limit is None else subset(found, limit, cfg.seed)
    if unlabelled and load_manifest(cfg, name).frame[list(CHEXPERT14)].isna().all(axis=None):
        log.warning("'%s' has no labels: answers to it are kept, and no figure is computed of them", name)
    elif not any(any(study.mask) for study in found):
        raise ValueError(
            f"none of the {len(found)} studies of '{name}' in {', '.join(splits)} has a judged label (policy "
            f"{policy.declared}, label_list {listed}, limit {limit}): no answer to them can be scored; change "
            f"data.sets.{name}.policy or label_list, raise the limit, or leave the set out"
        )
    return found


def choosing(cfg: DictConfig, name: str, label_set: LabelSet, share: float) -> tuple[list[Study], list[Study]]:
    """Validation studies of a set that choose the checkpoint, and the ``share`` kept from it for cuts, by patient."""
    studies = load_studies(cfg, name, ("val",), label_set)
    kept = hold_back(studies, share, cfg.data.get("seed") or 0, "phase.tuning")
    return [s for s in studies if s.patient_id not in kept], [s for s in studies if s.patient_id in kept]


def declaration(cfg: DictConfig, name: str, manifest: manifests.Manifest) -> dict[str, str]:
    """What the labels of one prepared set mean: ``policy`` and ``data_sha256`` as predictions carry them, ``text``."""
    policy, label_list = set_policy(cfg, name), cfg.data.sets[name].get("label_list")
    judged = [label for label in CHEXPERT14 if manifest.frame[label].notna().any()]
    text = declare(name, policy, judged, crosswalk_of(manifest.provenance), label_list)
    identity = manifests.content_hash(manifest.frame)[:16]
    return {"policy": policy.declared, "data_sha256": identity, "text": text}


def training_prevalence(cfg: DictConfig, label_set: LabelSet, *, needed: bool = True) -> dict[str, float]:
    """Share of positives among the judged images of the home set's pool, by label; 0 where none is judged.

    The pool is what the training splits were drawn from, as ``prepare`` counted it: a sampler levels the labels of its
    draw. Where a set has no training image, or an earlier version did not count its pool, raises ManifestError; where
    it is not ``needed``, warns and returns {}, or takes the splits themselves if no sampler drew them.
    """
    home, manifest = cfg.data.home, load_manifest(cfg, cfg.data.home)
    rows, pool = manifest.frame[manifest.frame["split"].isin(TRAIN)], manifest.provenance.get(POOL)
    if pool is None and not needed and not manifest.provenance.get("selection"):
        pool = pool_marks(rows)
    if pool is None or rows.empty:
        why = "an earlier version prepared it: prepare it again"
        if rows.empty:
            why = "it has no training image: prepare some"
        fault = f"the prevalence of labels in set '{home}' is unknown, {why}"
        if needed:
            raise manifests.ManifestError(f"{fault} (python -m chexreason.cli.prepare data={cfg.data.name})")
        log.warning("%s; without it there is no best_constant and no prior", fault)
        return {}
    names = cfg.data.sets[home].get("label_list")
    counts = pool_counts(pool, set_policy(cfg, home), (named_labels(names) if names else CHEXPERT14).labels)
    shares = {label: positive / judged if judged else 0.0 for label, (positive, judged) in counts.items()}
    return {label: shares.get(label, 0.0) for label in label_set}


def build_samples(studies: Sequence[Study], prompt: Prompt, label_set: LabelSet, teacher: Any) -> list[Sample]:
    """Studies with the prompt's words, and the teacher's answer where there is a teacher and it can write one."""
    words = render(prompt, label_set)
    if teacher is None:
        return [Sample(study, words) for study in studies]
    writable = [study for study in studies if teacher.can_write(study, label_set)]
    return [Sample(study, words, teacher.write(study, prompt, label_set)) for study in writable]


def check_training(cfg: DictConfig, train: Sequence[Sample]) -> None:
    """Refuse (LeakageError) samples whose patient or picture is also a validation or test one of any prepared set."""
    folder, chosen = Path(cfg.data.folder), {sample.study.study_id for sample in train}
    frames = {}
    for name in cfg.data.sets:
        if (folder / name / MANIFEST_NAME).is_file():  # a test set may be prepared later: then it is checked then
            frame = load_manifest(cfg, name).frame
            frames[name] = frame[frame["split"].isin(EVALUATION) | frame["study_id"].isin(chosen)]
    pairs = OmegaConf.to_container(cfg.data.get("allow_overlap") or OmegaConf.create([]))
    check_leaks(find_leaks(frames, [pair for pair in pairs if set(pair) <= set(frames)]))
