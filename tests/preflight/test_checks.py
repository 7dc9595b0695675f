"""The preflight command: a plan from the config alone, and the settings of real runs checked."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from chexreason.cli import checks
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.adapters import attach_lora
from chexreason.preflight.settings import grpo_faults
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


SAMPLING = "phase.module.sampling"
SOUND = ("phase=grpo", "objective=paper", "objective.scale=none", "reward=hard", "reward.min_length=0")
SOUND += ("model.max_new_tokens=96", f"{SAMPLING}.top_p=1")
LEARNED = {"out/sft": 96, "out/short": 90, "out/old": 0}  # the last one is of a version that did not record it
# Overrides of a sound GRPO run, and what is said of it; nothing where they only look like a fault.
PLANTED = {
    "nothing": ([], ""),
    "clip": (["objective.updates_per_rollout=1"], "its clip never acts"),
    "std": (["objective.scale=std"], r"still divides .* objective\.scale=none"),
    "std of another kind": (["objective.scale=std", "objective.normaliser=sequence_mean"], ""),
    "top_p": ([f"{SAMPLING}.top_p=0.95"], r"drawn with top_p=0\.95, top_k=0"),
    "top_k": ([f"+{SAMPLING}.top_k=50"], "top_k=50"),
    "top_p, corrected": ([f"{SAMPLING}.top_p=0.95", "objective.correction=token"], ""),
    "short": (["model.max_new_tokens=95"], r"95 tokens, but out/sft learned .* up to 96: set model\.max_new_tokens=96"),
    "base": (["adapters=[]"], "towards the base model"),
    "base, not pulled to": (["adapters=[]", "objective.kl_beta=0"], ""),
    "accumulate": (["phase.accumulate=2"], r"phase\.accumulate=2: .*the module accumulates .*micro_studies"),
    "clip value": (["phase.gradient_clip_val=0.5"], r"phase\.gradient_clip_val=0\.5: .*max_grad_norm"),
    "length": (["reward.min_length=250"], r"reward\.min_length=250 .*sampling\.max_new_tokens=96: every valid"),
    "length, not paid": (["reward.min_length=250", "reward.length_penalty=0"], ""),
    "learned": (["reward.min_length=97", "model.max_new_tokens=97"], r"=97 tokens, .* more than 96: .*=96 or less"),
    "learned, of weight 0": (
        ["reward.min_length=97", "model.max_new_tokens=97", "+reward.weights.length_penalty=0"],
        "",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_what_does_not_go_together_in_a_grpo_run_is_told(fault):
    overrides, words = PLANTED[fault]
    config = OmegaConf.to_container(composed("preflight", "adapters=[out/sft]", *SOUND, *overrides), resolve=True)
    found = list(grpo_faults(config, LEARNED))
    assert [bool(re.search(words, fault.text)) for fault in found] == [True] * bool(words)
    assert all(fault.stops == ("micro_studies" in fault.text) for fault in found)
    assert list(grpo_faults(config, {})) == [fault for fault in found if "learned" not in fault.text]


def grpo_findings(gemma, studies, folder, *overrides: str) -> list[str]:
    """What the checks say of a GRPO run from an SFT adapter that writes up to 96 tokens, errors raised."""
    (folder / "adapter_config.json").write_text("{}")
    (folder / "chexreason.json").write_text('{"answer_tokens": 96}')
    cfg = composed("preflight", *SOUND, f"adapters=[{folder}]", *overrides)
    attach_lora(gemma, dropout=cfg.adapter.dropout)
    return checks.check_settings(cfg, [Sample(study, "Describe.") for study in studies], gemma, CHEXPERT14)


@pytest.mark.slow
def test_all_faults_of_a_grpo_run_are_told_at_once(gemma, studies, tmp_path):
    assert grpo_findings(copy.deepcopy(gemma), studies, tmp_path) == []
    module = ("adapter.dropout=0.1", f"{SAMPLING}.temperature=0", "phase.module.group_size=1")
    others = ("model.gradient_checkpointing=true", "phase.accumulate=2", "model.max_new_tokens=64")
    said = ("5 of the settings", "dropout is on", "one answer", "a group of one", "drops the cache", "accumulates")
    said += (r"\(warning\) rollouts end after 64 .* up to 96", "HardReward pays policies that look at no image")
    with pytest.raises(ValueError, match="(?s)" + ".*".join(said)):
        grpo_findings(gemma, studies, tmp_path, *module, *others, "+reward.weights.jaccard=-1")
