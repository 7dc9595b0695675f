"""The preflight command: a plan from the config alone, and the settings of real runs checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chexreason.cli import checks
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.adapters import attach_lora
from chexreason.types import Sample
from tests.support.configs import composed

SHORT = ("model.max_new_tokens=12", "text_tokens=20", "model.eval_batch_size=2")


@pytest.mark.slow
def test_a_plan_lists_the_stages_of_its_phase_and_refuses_a_device_too_small():
    cfg = composed("preflight", "phase=sft", *SHORT)
    sft = checks.plan(cfg)
    assert [stage.name for stage in sft.stages] == ["update", "validation"]
    assert min(stage.largest for stage in sft.stages) > 8
    checks.check_fit(cfg, sft)
    with pytest.raises(
        ValueError, match=r"a device of 0\.01 GiB:\n  update needs .* phase\.batch_size=1\n.*\n  no set"
    ):
        checks.check_fit(cfg, replace(sft, device="a device of 0.01 GiB", capacity=2**30 // 100))


def test_a_gpu_that_is_absent_is_planned_for_as_the_papers(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    name, memory = checks.device_memory(composed("preflight", "trainer=gpu"))
    assert (name, memory) == ("no GPU here, so an A100 of 80 GiB", 80 * 2**30)


@pytest.mark.slow
def test_what_vllm_takes_is_no_room_for_training():
    shared, alone = (
        checks.plan(composed("preflight", "phase=grpo", *SHORT, *more)) for more in ((), ("rollout=vllm",))
    )
    whole = checks.device_memory(composed("preflight"))[1]
    assert [stage.name for stage in alone.stages] == ["update", "validation"] == [s.name for s in shared.stages[1:]]
    assert shared.capacity - alone.capacity == pytest.approx(0.4 * whole, abs=1)
    assert "less the 40% of it that vLLM" in alone.table()


@pytest.mark.slow
def test_the_settings_of_a_run_are_checked_together(gemma, studies):
    attach_lora(gemma, dropout=0.1)
    samples = [Sample(study, "Describe.", "<think>a</think><solution>Edema</solution>") for study in studies]
    warnings = checks.check_settings(
        composed("preflight", "phase=sft", "phase.max_epochs=20"), samples, gemma, CHEXPERT14
    )
    assert not warnings
    gemma.stop_ids.append(10**6)
    faulty = composed("preflight", "phase=grpo", "objective=grpo", "model.max_new_tokens=5000")
    with pytest.raises(ValueError, match=r"(?s)3 of the settings.*dropout is on.*stop ids.*exceed the context"):
        checks.check_settings(faulty, samples, gemma, CHEXPERT14)


SOUND = (
    "phase=grpo",
    "objective=paper",
    "objective.updates_per_rollout=2",
    "reward=hard",
    "reward.min_length=0",
    "model.max_new_tokens=96",
)
SOUND += ("phase.module.sampling.top_p=1", "objective.scale=none")
SAMPLING = "phase.module.sampling"
# overrides that plant one fault in a sound GRPO run, words of what is said of it, and whether it ends the run
PLANTED = {
    "clip": (["objective.updates_per_rollout=1"], "its clip never acts", False),
    "std": (["objective.scale=std"], "still divides advantages by the group's std", False),
    "top_p": ([f"{SAMPLING}.top_p=0.9"], "drawn with top_p=0.9", False),
    "top_k": ([f"+{SAMPLING}.top_k=50"], "top_k=50", False),
    "dropout": (["adapter.dropout=0.1"], "dropout is on in rollouts", True),
    "short": (["model.max_new_tokens=64"], "learned answers of up to 96", False),
    "base": (["adapters=[]"], "pulls towards the base model", False),
    "greedy": ([f"{SAMPLING}.temperature=0"], "give every group one answer", True),
    "group": (["phase.module.group_size=1"], "a group of one has no advantage", True),
    "checkpointing": (["model.gradient_checkpointing=true"], "drops the cache", True),
    "accumulate": (["phase.accumulate=2"], "the module accumulates and clips by itself", True),
    "clip value": (["phase.gradient_clip_val=1"], "the module accumulates and clips by itself", True),
    "reward": (["+reward.weights.jaccard=-1"], "HardReward pays policies that look at no image", False),
    "reward length": (["reward.min_length=250"], "every valid answer pays the length penalty", False),
    "learned length": (
        ["reward.min_length=250", "model.max_new_tokens=640"],
        "no answer learned from has more than 96",
        False,
    ),
}


def grpo_findings(gemma, studies, folder, overrides=()) -> list[str]:
    """What the checks say of a GRPO run from an SFT adapter that writes up to 96 tokens, errors raised."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "chexreason.json").write_text('{"answer_tokens": 96}')
    cfg = composed("preflight", *SOUND, f"adapters=[{folder}]", *overrides)
    attach_lora(gemma, dropout=cfg.adapter.dropout)
    return checks.check_settings(cfg, [Sample(study, "Describe.") for study in studies], gemma, CHEXPERT14)


@pytest.mark.slow
def test_of_a_sound_grpo_run_nothing_is_said(gemma, studies, tmp_path):
    assert grpo_findings(gemma, studies, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_planted_in_a_grpo_run_is_told(gemma, studies, tmp_path, fault):
    overrides, words, stops = PLANTED[fault]
    if stops:
        with pytest.raises(ValueError, match=words):
            grpo_findings(gemma, studies, tmp_path, overrides)
    else:
        found = grpo_findings(gemma, studies, tmp_path, overrides)
        assert len(found) == 1, found
        assert words in found[0]
