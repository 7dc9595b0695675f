"""The packaged tiny models: loadable offline, small, with all their stop ids, and not blind."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

from chexreason.phantom.institution import INSTITUTIONS
from chexreason.phantom.patient import PhantomStudy, sample_patient
from chexreason.phantom.render import render_film
from chexreason.types import Sign
from tools.tiny_models.configs import MODELS
from tools.tiny_models.encode import FRAMES, DialogueEncoder
from tools.tiny_models.package import tiny_path

CLASSES = {
    "tiny_gemma3": (Gemma3ForConditionalGeneration, Gemma3Processor),
    "tiny_qwen2_5_vl": (Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor),
}
STOPS = {"tiny_gemma3": ("<end_of_turn>", "<eos>"), "tiny_qwen2_5_vl": ("<|im_end|>", "<|endoftext|>")}
both = pytest.mark.parametrize("name", MODELS)


@cache
def load(name):
    path = tiny_path(name)
    model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoProcessor.from_pretrained(path, local_files_only=True)


def prompt(processor, text):
    parts = [{"type": "image"}, {"type": "text", "text": text}]
    return processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)


def batch(processor, images, text="Describe this image.", answer=""):
    texts = [prompt(processor, text) + answer] * len(images)
    return processor(images=[[image] for image in images], text=texts, return_tensors="pt", padding=True)


def grey(value, size=(160, 160)):
    return Image.new("RGB", size, (value,) * 3)


@both
def test_loads_as_the_real_classes_and_stays_small(name):
    model, processor = load(name)
    model_class, processor_class = CLASSES[name]
    assert type(model) is model_class
    assert type(processor) is processor_class
    assert (tiny_path(name) / "model.safetensors").stat().st_size <= 9_000_000
    assert 3e6 < sum(parameter.numel() for parameter in model.parameters()) < 5e6
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@both
def test_every_stop_id_is_in_the_generation_config(name):
    model, processor = load(name)
    stops = {processor.tokenizer.convert_tokens_to_ids(token) for token in STOPS[name]}
    assert set(model.generation_config.eos_token_id) == stops
    assert model.config.get_text_config().vocab_size == len(processor.tokenizer)
    assert processor.tokenizer.padding_side == "left"


@both
@pytest.mark.parametrize("size", [(128, 128), (160, 160), (320, 200)])
def test_an_image_becomes_sixteen_tokens(name, size):
    model, processor = load(name)
    inputs = batch(processor, [grey(90, size)])
    expected = 16 if size[0] == size[1] or name == "tiny_gemma3" else int(inputs["image_grid_thw"].prod()) // 4
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == expected
    assert expected <= 16


@both
def test_the_image_changes_the_logits(name):
    model, processor = load(name)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (160, 160), dtype=np.uint8)).convert("RGB")
    with torch.no_grad():
        logits = model(**batch(processor, [grey(30), noise])).logits[:, -1]
    assert (logits[0] - logits[1]).abs().max() > 0.05


@both
@given(text=st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_the_tokenizer_keeps_any_text(name, text):
    import unicodedata

    tokenizer = load(name)[1].tokenizer
    text = unicodedata.normalize("NFC", text.replace("▁", "_"))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@both
def test_the_answer_tags_are_single_ordinary_tokens(name):
    tokenizer = load(name)[1].tokenizer
    for tag in ("<think>", "</think>", "<solution>", "</solution>"):
        ids = tokenizer(tag, add_special_tokens=False)["input_ids"]
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == tag


@both
def test_pretraining_frames_are_the_chat_template(name):
    processor = load(name)[1]
    turns = [("Is there a ring?", "Yes."), ("Where?", "At the top left.")]
    messages = []
    for asked, answer in turns:
        first = [{"type": "image"}] if not messages else []
        messages.append({"role": "user", "content": [*first, {"type": "text", "text": asked}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    text = processor.apply_chat_template(messages)
    whole = processor(images=[[grey(100)]], text=[text], return_tensors="pt")["input_ids"][0].tolist()
    ours = DialogueEncoder(name, processor.tokenizer)([turns]).input_ids[0].tolist()
    assert whole[: len(ours)] == ours
    assert processor.tokenizer.decode(whole[len(ours) :]) == "\n"
    assert FRAMES[name].image_token in processor.tokenizer.get_vocab()


def phantoms(findings, n):
    """``n`` films of hospital A, each of another patient, with the same findings."""
    films = []
    for seed in range(n):
        rng = np.random.default_rng([77, seed])
        study = PhantomStudy(seed=seed, patient=sample_patient(rng), findings=findings, view="PA", age=60, sex="F")
        films.append(Image.fromarray(render_film(study, INSTITUTIONS["a"].rendering, 160)).convert("RGB"))
    return films


def answer_logp(model, processor, images, question, answer):
    """Log-probability of ``answer`` after ``question`` for each image, [B]."""
    inputs = batch(processor, images, question, answer)
    n = len(processor.tokenizer(answer, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logp = model(**inputs).logits[:, -n - 1 : -1].log_softmax(-1)
    return logp.gather(-1, inputs["input_ids"][:, -n:, None]).sum((1, 2))


@pytest.mark.slow
def test_tiny_gemma3_sees_an_effusion():
    """A claim of effusion is more probable on films with one; 20 films a class, and a rank test by eye: AUC > 0.8."""
    model, processor = load("tiny_gemma3")
    sick = phantoms((Sign("Pleural Effusion", "left", 0.9),), 20)
    well = phantoms((), 20)
    for question, answer in (
        ("Is there a pleural effusion?", "Yes"),
        ("Describe this chest radiograph.", "There is a large pleural effusion on the left."),
    ):
        with_, without = (answer_logp(model, processor, films, question, answer) for films in (sick, well))
        area = (with_[:, None] > without[None, :]).float().mean()
        assert area > 0.8, f"'{answer}' after '{question}': area {area:.2f}"


def test_an_unknown_tiny_model_is_named_with_the_known_ones():
    with pytest.raises(FileNotFoundError, match="tiny_gemma3"):
        tiny_path("tiny_llama")
