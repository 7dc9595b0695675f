"""A blend of two adapters: the mixture of their weight changes, what its card says, and which two are no pair."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from chexreason.cli.blend import blend
from chexreason.cli.export import publish
from chexreason.files import file_sha256, read_sealed, write_sealed
from chexreason.model.adapters import CARD, WEIGHTS, keep_adapter, read_card, save_adapter, unchanging
from chexreason.runs import RunError
from tests.support.adapters import with_lora
from tests.support.commands import Command
from tests.support.configs import composed

ALPHAS = (0.0, 0.25, 0.5, 1.0, 1.5)
PROMPT = {"name": "free_reasoning", "text": "Read it.", "grammar": "think_solution"}
LABELS = {"name": "two", "order": ["Edema", "Fracture"]}


def facts(phase: str, **card) -> dict:
    known = {"phase": phase, "prompt": PROMPT, "labels": LABELS, "data": "d", "seed": 0, "step": 3}
    return known | {"training_sets": [{"set": phase, "public": phase == "sft"}], "chosen_on": [], **card}


def adapters_of(policy, folder: Path) -> list[str]:
    """An SFT adapter of rank 4, and a GRPO adapter of rank 2 and another scale that was trained upon it: a stack."""
    with_lora(policy, 1, r=4, alpha=8)
    save_adapter(policy, folder / "sft", facts("sft", answer_tokens=9))
    policy.model = keep_adapter(policy.model.unload(), folder / "sft", "adapter0")
    with_lora(policy, 2, r=2, alpha=5)
    save_adapter(policy, folder / "grpo", facts("grpo", chosen_on=["home"], answer_tokens=4))
    return [str(folder / "sft"), str(folder / "grpo")]


def changes(folder: str | Path) -> dict[str, torch.Tensor]:
    """The weight change of each module in float64, computed from the folder as PEFT reads it."""
    config, weights = json.loads(Path(folder, "adapter_config.json").read_text()), load_file(Path(folder, WEIGHTS))
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): config["lora_alpha"]
        / config["r"]
        * weights[name.replace("lora_A", "lora_B")].double()
        @ down.double()
        for name, down in weights.items()
        if "lora_A" in name
    }


def logits(policy, images) -> torch.Tensor:
    prompts = policy.encode(images[:2], ["Describe."] * 2)
    inputs = policy.family.image_inputs(prompts) | policy.family.sequence_inputs(prompts.type_ids)
    inputs |= {"mm_token_type_ids": prompts.type_ids} if prompts.grid is not None else {}
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    model = policy.model.eval().double()
    with torch.no_grad(), unchanging(policy):
        return model(input_ids=prompts.input_ids, attention_mask=prompts.attention_mask, **inputs).logits


def blended(parents: list[str], alpha: float, out: Path, *words: str) -> Path:
    given = [f"adapters=[{','.join(parents)}]", f"alpha={alpha}", f"paths.out={out}", *words]
    return blend(composed("blend", *given))


@pytest.mark.slow
def test_the_weight_change_is_the_mixture_and_so_are_the_logits_of_the_loaded_folder(policy, images, tmp_path):
    bare = copy.deepcopy(policy)
    parents = adapters_of(policy, tmp_path)
    first, second = map(changes, parents)
    said = {}
    for alpha in ALPHAS:
        folder = blended(parents, alpha, tmp_path / "out")
        wanted = {name: (1 - alpha) * first[name] + alpha * second[name] for name in first}
        for name, change in changes(folder).items():
            torch.testing.assert_close(change, wanted.pop(name), atol=1e-6, rtol=0)
        assert wanted == {}
        loaded, merged = copy.deepcopy(bare), copy.deepcopy(bare)
        loaded.model = keep_adapter(loaded.model, folder, "adapter0")
        merged.model.double()
        for name, weight in merged.model.named_parameters():
            if (module := name.removesuffix(".weight")) in first:
                weight.data += (1 - alpha) * first[module] + alpha * second[module]
        said[alpha] = logits(loaded, images)
        torch.testing.assert_close(said[alpha], logits(merged, images), atol=1e-6, rtol=1e-6)
    assert (said[0.0] - said[1.0]).abs().max() > 0.01  # else the mixture would show nothing
    assert (said[0.5] - (said[0.0] + said[1.0]) / 2).abs().max() > 1e-4  # it is the weights that are mixed


@pytest.fixture
def parents(gemma, tmp_path) -> list[str]:
    return adapters_of(gemma, tmp_path)


def test_the_card_names_both_parents_and_every_set_they_learned_from(parents, tmp_path):
    folder = blended(parents, 0.25, tmp_path / "out", "name=x")
    card = read_card(folder)
    assert folder == tmp_path / "out/x/alpha0.25/seed0/adapter/best"
    assert card["blend"]["alpha"] == 0.25
    found = [(parent["phase"], parent["weights_sha256"]) for parent in card["blend"]["parents"]]
    assert found == [(Path(path).name, file_sha256(Path(path, WEIGHTS))) for path in parents]
    assert [row["set"] for row in card["training_sets"]] == ["sft", "grpo"]
    assert (card["chosen_on"], card["answer_tokens"], card["prompt"]) == (["home"], 9, PROMPT)
    assert (folder.parents[1].stat().st_mode & 0o077) == 0  # one of the sets is not public
    page = publish(composed("export", f"adapters=[{folder}]", f"to={tmp_path}/to", "base=me/base")) / "README.md"
    assert f"0.25 of the weight change of `{found[1][1][:16]}` (SHA-256), trained by `grpo`" in page.read_text()
    assert f"0.75 of the weight change of `{found[0][1][:16]}`" in page.read_text()


def test_a_blend_is_made_once_and_no_other_takes_its_place(parents, tmp_path):
    folder = blended(parents, 0.5, tmp_path / "out", "arm=b")
    before = folder.stat().st_mtime_ns
    again = ["arm=b", "prompt=only_label", "model=tiny_qwen2_5_vl"]  # of an evaluation, which no blend reads
    assert blended(parents, 0.5, tmp_path / "out", *again).stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"holds a run with another config: alpha: 0\.5 -> 0\.6"):
        blended(parents, 0.6, tmp_path / "out", "arm=b")
    assert blended(parents, 0.6, tmp_path / "out", "arm=b", "restart=true") == folder
    assert read_card(folder)["blend"]["alpha"] == 0.6


CASES = {
    "prompt": r"prompt: free_reasoning \(\w{8}\) and free_reasoning \(\w{8}\)",
    "labels": r"labels: two",
    "base_fingerprint": r"base weights: \w{16} and other",
    "model_type": r"architecture: gemma3 and other",
    "quantise": r"precision of the base: None and other",
    "modules": r"1 of the modules that they change, or their sizes, e\.g\. base_model\.model\.\S+layers\.0\.",
    "use_dora": r"is no plain LoRA \(use_dora",
}


@pytest.mark.parametrize("case", CASES)
def test_two_that_no_model_could_carry_together_are_refused(case, parents, tmp_path):
    folder = Path(parents[1])
    card, weights = read_sealed(folder / CARD, ""), load_file(folder / WEIGHTS)
    config = json.loads((folder / "adapter_config.json").read_text())
    card |= {
        "prompt": {"prompt": PROMPT | {"text": "Read it again."}},
        "labels": {"labels": LABELS | {"order": LABELS["order"][::-1]}},
    }.get(case, {case: "other"})
    config |= {"use_dora": True} if case == "use_dora" else {}
    for name in list(weights)[:2] if case == "modules" else ():
        weights.pop(name)
    save_file(weights, folder / WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    files = {name: file_sha256(folder / name) for name in ("adapter_config.json", WEIGHTS)}
    write_sealed(folder / CARD, card | {"files": files})
    with pytest.raises(ValueError, match=CASES[case]):
        blended(parents, 0.5, tmp_path / "out", "name=x")
    assert not (tmp_path / "out/x/alpha0.5/seed0/adapter").exists()


@pytest.mark.parametrize("alpha", ["nan", "inf", "null", "1e39"])
def test_an_alpha_that_is_no_number_is_refused(alpha, parents, tmp_path):
    with pytest.raises(ValueError, match="alpha="):
        blended(parents, alpha, tmp_path / "out")


def test_one_adapter_three_and_damaged_ones_are_refused(parents, tmp_path):
    for given in (parents[:1], [*parents, parents[0]], []):
        with pytest.raises(ValueError, match=rf"of two adapters, found {len(given)}: 'adapters=\[FIRST, SECOND\]'"):
            blended(given, 0.5, tmp_path / "out")
    shutil.copyfile(Path(parents[0], WEIGHTS), Path(parents[1], WEIGHTS))
    with pytest.raises(ValueError, match="is damaged or missing"):
        blended(parents, 0.5, tmp_path / "out")


@pytest.mark.slow
def test_the_command_blends_and_a_sweep_has_a_row_of_alphas(parents, tmp_path):
    Command(tmp_path / "out", "blend", f"adapters=[{','.join(parents)}]", "name=x").done()
    stored = OmegaConf.load(tmp_path / "out/x/alpha0.5/seed0/config.yaml")
    assert len(stored.adapters_sha256) == 2
