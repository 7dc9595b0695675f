"""SFT's early stopping: a share of its own studies, by patient, chooses the best adapter, not what the tables score."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from chexreason.build.data import build_labels, build_manifests, build_prompt
from chexreason.build.model import adapter_card
from chexreason.build.training import build_data
from chexreason.data.sampling import hold_back
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.logprobs import completion_scores
from chexreason.training.callbacks.adapter_export import AdapterExport
from chexreason.training.callbacks.label_f1 import LabelF1Callback
from chexreason.training.datamodule import StudyData
from chexreason.training.sft import SFTModule
from chexreason.types import Sample
from tests.support import training as t
from tests.support.configs import composed

SETS = (
    "data.sets.phantom_a.source.n={sft: 60, rl: 8, val: 6, test: 1}",
    "data.sets.phantom_b.source.n={val: 3, test: 1}",
)


def visits(studies, n_patients: int, each: int):
    return [replace(studies[0], study_id=f"s{i}", patient_id=f"p{i // each}") for i in range(n_patients * each)]


@pytest.mark.parametrize(("patients", "each", "held"), [(200, 1, 20), (2, 1, 1), (9, 3, 1), (30, 3, 3), (200, 3, 20)])
def test_a_tenth_is_held_back_by_patient_and_at_least_one(studies, patients, each, held):
    rows = visits(studies, patients, each)
    found = hold_back(rows, 0.1, 0)
    assert len(found) == held
    assert found == hold_back(rows[::-1], 0.1, 0)
    assert patients < 10 or found != hold_back(rows, 0.1, 1)
    assert hold_back(rows, 0.0, 0) == frozenset()


@pytest.mark.parametrize(("others", "held"), [(1, 1), (11, 4), (40, 6)])
def test_a_patient_with_many_studies_is_not_most_of_what_is_held_back(studies, others, held):
    """Twenty studies of one patient and one of each other: a tenth of 21, 31 and 60."""
    rows = visits(studies, others, 1) + [replace(row, patient_id="many") for row in visits(studies, 20, 1)]
    for seed in range(20):
        found = hold_back(rows, 0.1, seed)
        assert "many" not in found
        assert len(found) == held


def test_what_cannot_be_held_back_is_refused(studies):
    with pytest.raises(ValueError, match=r"holdout=0\.1 of 3 studies of 1 patients leaves no other patient.*holdout=0"):
        hold_back(visits(studies, 1, 3), 0.1, 0)
    for share in (-0.1, 1.0, 10):
        with pytest.raises(ValueError, match=f"phase.holdout={share} is a share"):
            hold_back(visits(studies, 5, 1), share, 0)


@pytest.mark.slow
def test_all_arms_hold_back_the_same_patients_and_train_on_none_of_them(gemma, tmp_path, caplog):
    paths = (f"paths.out={tmp_path}", *SETS)
    build_manifests(composed("prepare", *paths), on_error="stop", workers=1)

    def built(*overrides: str):
        cfg = composed("train", "phase.batch_size=2", *paths, *overrides)
        data = build_data(cfg, gemma, build_prompt(cfg), build_labels(cfg))
        held = [sample for samples in data.held.values() for sample in samples]
        home = data.val_samples["phantom_a"]
        return data.train_samples, held, home, adapter_card(cfg, build_prompt(cfg), build_labels(cfg))

    train, held, home, card = built()
    assert (card["chosen_on"], card["holdout"]) == ([], 0.1)
    patients = {sample.study.patient_id for sample in held}
    assert patients.isdisjoint(sample.study.patient_id for sample in train)
    assert 0.1 <= len(held) / len([*held, *train]) < 0.17  # by patient, of up to three visits
    assert all(sample.answer for sample in held)
    assert not any(sample.answer for sample in home)
    for other in (("seed=7",), ("phase.limit=12", "seed=3"), ("prompt=reasoning_a",), ("prompt=only_label",)):
        shorter, again, _, _ = built(*other)
        assert {sample.study.study_id for sample in again} == {sample.study.study_id for sample in held}
        assert patients.isdisjoint(sample.study.patient_id for sample in shorter)
    assert "which tables score too" not in caplog.text
    whole, none, home, card = built("phase.holdout=0")
    assert (len(whole), none, card["chosen_on"]) == (len(train) + len(held), [], ["phantom_a", "phantom_b"])
    assert any(sample.answer for sample in home)
    assert "chosen by val/loss on validation studies of phantom_a, phantom_b, which tables score too" in caplog.text
    assert built("phase.monitor=val/phantom_a/macro_f1")[3]["chosen_on"] == ["phantom_a", "phantom_b"]
    assert built("phase=grpo")[3]["chosen_on"] == ["phantom_a", "phantom_b"]  # as the paper does
    with pytest.raises(ValueError, match=r"holdout=0\.1 holds back .* phase\.teacher has no answer.*phase\.holdout=0"):
        built("phase=grpo", "+phase.holdout=0.1")


@pytest.mark.slow
def test_the_validation_loss_is_that_of_the_studies_held_back(studies, tmp_path):
    policy = t.policy_with_lora()
    samples = [Sample(s, "Describe.", a) for s, a in zip(studies, t.ANSWERS, strict=True)]
    held = samples[3:]
    asked = [replace(sample, answer=None) for sample in samples[:2]]
    data = StudyData(policy.collate(), samples[:3], {"set": asked}, batch_size=3, eval_batch_size=2, held=held)
    module = SFTModule(policy, **t.common())
    export = AdapterExport(str(tmp_path / "adapter"), "val/loss", "min", {})
    callbacks = [LabelF1Callback(CHEXPERT14), export]
    trainer = t.fit(module, data, tmp_path, callbacks=callbacks, max_epochs=1, limit_val_batches=1.0)
    ids, mask = policy.encode_answers([sample.answer for sample in held])
    prompts = policy.collate()([(sample, 0.0) for sample in held]).prompts
    with torch.no_grad():
        scores = completion_scores(policy.eval(), policy.with_features(prompts), ids, mask, shared=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["val/loss"] == pytest.approx(-float(scores.logp.sum() / mask.sum()), rel=1e-4)
    assert export.best == logged["val/loss"]
    assert not math.isnan(logged["val/set/macro_f1"])
    assert {name.split("/")[1] for name in logged if name.endswith("macro_f1")} == {"set"}
