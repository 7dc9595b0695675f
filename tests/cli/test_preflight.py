"""The preflight command: a plan from the config alone, and the settings of real runs checked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from chexreason.cli import checks, preflight
from chexreason.confdir import confdir
from chexreason.labels.catalog import CHEXPERT14
from chexreason.policy.adapters import attach_lora
from chexreason.types import Sample


def composed(*overrides: str):
    with initialize_config_dir(confdir(), version_base="1.3"):
        return compose("preflight", list(overrides))


SHORT = ("model.max_new_tokens=12", "text_tokens=20", "model.eval_batch_size=2")


@pytest.mark.slow
def test_a_plan_lists_the_stages_of_its_phase_and_refuses_a_device_too_small():
    sft = preflight.plan(composed("phase=sft", *SHORT))
    assert [stage.name for stage in sft.stages] == ["update", "validation"]
    assert min(stage.largest for stage in sft.stages) > 8
    sft.check()
    with pytest.raises(ValueError, match=r"a device of 0\.01 GiB:\n  update needs .* phase\.batch_size=1"):
        replace(sft, device="a device of 0.01 GiB", capacity=2**30 // 100).check()


def test_a_gpu_that_is_absent_is_planned_for_as_the_papers(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    name, memory = preflight.device_memory(composed("trainer=gpu"))
    assert (name, memory) == ("no GPU here, so an A100 of 80 GiB", 80 * 2**30)


@pytest.mark.slow
def test_the_settings_of_a_run_are_checked_together(gemma, studies):
    attach_lora(gemma, dropout=0.1)
    samples = [Sample(study, "Describe.", "<think>a</think><solution>Edema</solution>") for study in studies]
    warnings = checks.check_settings(composed("phase=sft", "phase.max_epochs=20"), samples, gemma, CHEXPERT14)
    assert not warnings
    gemma.stop_ids.append(10**6)
    faulty = composed("phase=grpo", "objective=grpo", "model.max_new_tokens=5000")
    with pytest.raises(ValueError, match=r"(?s)3 of the settings.*dropout is on.*stop ids.*exceed the context"):
        checks.check_settings(faulty, samples, gemma, CHEXPERT14)
