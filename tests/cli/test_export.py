"""What is published: an adapter with its card, merged weights, answers; and what may not be pushed or overwritten."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

from chexreason import runs
from chexreason.build.data import build_labels, build_prompt
from chexreason.build.model import adapter_card
from chexreason.cli.export import publish
from chexreason.data.credentialed import ExportError
from chexreason.data.manifest import Manifest, write_manifest
from chexreason.files import write_sealed, write_text
from chexreason.model.adapters import read_card, save_adapter
from chexreason.model.load import load_policy
from chexreason.statistics.predictions import write_predictions
from chexreason.types import Prediction
from tests.support.adapters import with_lora
from tests.support.commands import Command
from tests.support.configs import composed
from tests.support.manifests import manifest_rows

EDEMA = ("Edema",)


def trained(policy, folder: Path, *words: str, public: bool = True, **card) -> str:
    """An adapter with the card of a run on a home set that is declared public, or is not."""
    facts, place = {"source": "table", "public": public}, folder.parent / "data"
    rows = Manifest(manifest_rows("phantom_a", 2, split="sft"), facts, place)
    write_manifest(rows, place / "phantom/phantom_a/manifest.parquet")
    cfg = composed("train", f"paths.data={place}", *words)
    known = {**adapter_card(cfg, build_prompt(cfg), build_labels(cfg)), "step": 3, "monitor": "val/loss", "value": 0.5}
    save_adapter(with_lora(policy, len(words)), folder, known | card)
    return str(folder)


def logits(model, policy, images) -> torch.Tensor:
    prompts = policy.encode(images[:2], ["Describe."] * 2)
    inputs = policy.family.image_inputs(prompts) | policy.family.sequence_inputs(prompts.type_ids)
    inputs |= {"mm_token_type_ids": prompts.type_ids} if "qwen" in model.config.model_type else {}
    with torch.no_grad():
        return model.eval()(input_ids=prompts.input_ids, attention_mask=prompts.attention_mask, **inputs).logits


def evaluated(folder: Path, *hashes: str | None, **sizes: int) -> None:
    rows = [
        Prediction(f"{name}{i}", f"{name}{i}", name, "t", EDEMA[i % 2 :], EDEMA, EDEMA)
        for name, n in sizes.items()
        for i in range(n)
    ]
    write_predictions(folder / "predictions.jsonl", rows)
    write_text(folder / "config.yaml", json.dumps({runs.ADAPTERS: hashes}))
    runs.mark_done(folder, {})


def test_an_adapter_leaves_with_the_facts_of_its_run(gemma, images, tmp_path):
    ours = trained(gemma, tmp_path / "sft/seed0/adapter/best")
    evaluated(tmp_path / "eval/sft", runs.adapter_sha256(ours), home=12, few=9)
    evaluated(tmp_path / "eval/base", elsewhere=12)
    to = publish(composed("export", f"adapters=[{ours}]", f"to={tmp_path}/out", "base=me/base"))
    page, card = (to / "README.md").read_text(), read_card(ours)
    assert "| home (sft) | 12 | 12 | 0.667 [" in page
    assert f"| phantom_a | yes | {card['training_sets'][0]['data_sha256']} |" in page
    assert card["prompt"]["text"] in page
    kept = "".join((to / name).read_text() for name in ("README.md", "adapter_config.json", "chexreason.json"))
    assert not [word for word in ("few", "elsewhere", str(tmp_path), "tiny:tiny_gemma3") if word in kept]
    model = PeftModel.from_pretrained(load_policy(gemma.source, dtype="float32").model, to)
    torch.testing.assert_close(logits(model, gemma, images), logits(gemma.model, gemma, images))
    publish(
        composed("export", f"adapters=[{to}]", f"to={to}", "licence=mit", "base=me/base")
    )  # again, in its own place
    assert "license_name: mit" in (to / "README.md").read_text()


@pytest.mark.slow
def test_merged_weights_answer_as_the_adapters_did(policy, images, tmp_path):
    first = trained(policy, tmp_path / "a/a")
    chain = load_policy(policy.source, dtype="float32", adapters=[first])
    both = trained(chain, tmp_path / "b/b", f"adapters=[{first}]", public=False)
    words = [f"adapters=[{both}]", "merged=true", f"model.source={policy.source}", "model.family=null", "base=me/base"]
    to = publish(composed("export", *words, f"to={tmp_path}/out"))
    merged, ours = AutoModelForImageTextToText.from_pretrained(to, dtype="auto"), logits(chain.model, policy, images)
    assert AutoProcessor.from_pretrained(to).chat_template == policy.processor.chat_template
    torch.testing.assert_close(logits(merged, policy, images), ours, atol=1e-4, rtol=1e-4)
    again = trained(load_policy(str(to), dtype="float32"), tmp_path / "c/c", f"model.source={to}")
    assert [row["public"] for row in read_card(again)["training_sets"]] == [True, False, True]  # it inherits
    half = publish(composed("export", *words, f"to={tmp_path}/half", "model.dtype=bfloat16"))
    assert AutoModelForImageTextToText.from_pretrained(half, dtype="auto").dtype == torch.bfloat16
    told = [
        (folder / "README.md").read_text().partition("rounding changed the weights by ")[2] for folder in (to, half)
    ]
    assert told[0].startswith("0 of")
    assert 0.001 < float(told[1].split()[0]) < 0.1


SETS = {"public": [True], "private": [False], "none recorded": [], "earlier": [True, None]}


@pytest.mark.parametrize("case", SETS)
def test_only_what_learned_from_public_sets_is_pushed_without_an_agreement(case, gemma, tmp_path, monkeypatch):
    sets = [{"set": f"s{i}", "public": said} for i, said in enumerate(SETS[case])]
    ours, sent = trained(gemma, tmp_path / "a", training_sets=sets), []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, **how: sent.append((name, how)))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda self, **what: sent.append(what))
    words = [f"adapters=[{ours}]", f"to={tmp_path}/out", "push=me/mine"]
    for agreement in ("null", "true") if case != "public" else ():
        with pytest.raises(ExportError, match=r"declare them public \((s0|s1|not recorded)\): leave push= out"):
            publish(composed("export", *words, f"allow_export={agreement}"))
        assert not (tmp_path / "out").exists()
    to = publish(composed("export", *words, *["allow_export='the DUA of May'"] * (case != "public")))
    assert sent == [("me/mine", {"private": True, "exist_ok": True}), {"folder_path": to, "repo_id": "me/mine"}]
    assert ("Published under: the DUA of May." in (to / "README.md").read_text()) == (case != "public")


def test_what_cannot_be_written_is_said_and_nothing_is_overwritten(gemma, tmp_path):
    ours, local = trained(gemma, tmp_path / "a"), shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_sealed(local / "chexreason.json", read_card(ours) | {"quantise": "nf4", "source": "/models/base"})
    write_text(tmp_path / "mine/notes.txt", "keep")
    cases = {
        f"adapters=[{ours}] to={ours}": "holds something else than an export",
        f"adapters=[{ours}] to={tmp_path}/mine": "holds something else than an export",
        f"adapters=[{ours}] to={tmp_path}/mine/notes.txt": "holds something else than an export",
        f"adapters=[{ours},{local}] to={tmp_path}/x": "give one, or merged=true",
        f"adapters=[{local}] to={tmp_path}/x": "loaded from /models/base, .* name it with base=USER/NAME",
        f"adapters=[{local}] to={tmp_path}/x merged=true": "in 4 bits exactly: leave merged=true out",
        f"adapters=[{ours}] to={tmp_path}/x push=mine": "is no USER/NAME",
        f"adapters=[{ours}]": "say what and where",
        f"predictions=p.jsonl to={tmp_path}/mine": "answers go to a file",
    }
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words, said in cases.items():
        with pytest.raises(ValueError, match=said):
            publish(composed("export", *words.split()))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_signal_leaves_no_half_of_an_export(gemma, tmp_path):
    words = [f"adapters=[{trained(gemma, tmp_path / 'a')}]", f"to={tmp_path}/out/model"]
    run = Command(tmp_path / "out", "export", *words, plant=("chexreason.cli.export", "_model_card", 1, "python"))
    run.stuck()
    assert any(path.is_dir() for path in (tmp_path / "out").iterdir())
    run.send(signal.SIGTERM)
    assert run.wait(20) == 75, run.said()
    time.sleep(0.1)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


def test_answers_are_written_as_lmms_eval_logs_samples(tmp_path):
    answers = [(("Edema", "Fracture"), EDEMA, None), (EDEMA, EDEMA, "no solution"), ((), (), None), ((), None, None)]
    judged = ("Edema", "Fracture")
    rows = [
        Prediction(f"s{i}", "p", "a", "<think>", said, truth or (), () if truth is None else judged, broken=broken)
        for i, (said, truth, broken) in enumerate(answers)
    ]
    write_predictions(tmp_path / "p.jsonl", rows)
    to = publish(composed("export", f"predictions={tmp_path}/p.jsonl", f"to={tmp_path}/s.jsonl"))
    found = [json.loads(line) for line in to.read_text().splitlines()]
    assert [(f["doc_id"], f["target"], f["resps"]) for f in found[:1]] == [(0, "Edema", [["<think>"]])]
    assert [f["filtered_resps"] for f in found] == [["Edema, Fracture"], [""], [""], [""]]
    scores = [(0.0, 0.5, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (None, None, None)]
    assert [(f["exact_match"], f["jaccard"], f["readable"]) for f in found] == scores
