"""The SmolVLM comparator: a tiny Idefics3 of random weights goes through the loader, the engine and the evaluation."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)

from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.features import cache_films
from chexreason.model.generate import predict_batch
from chexreason.model.load import load_policy
from chexreason.model.logprobs import completion_scores
from chexreason.model.policy import Policy, pad_right
from chexreason.parsing import AnswerFormat, Grammar
from chexreason.types import Sample
from tests.support.adapters import greedy_is_generate

pytestmark = pytest.mark.slow

SPECIAL = ["<|im_start|>", "<pad>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
SPECIAL += [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}:{% for part in message.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
TEXTS = ("Describe the radiograph.", "Is there a pleural effusion?", "Hi")


def processor() -> Idefics3Processor:
    """A tokenizer of bytes, and images of 32 pixels with crops of up to 64."""
    tokens = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        bos_token="<|im_start|>",
        pad_token="<pad>",
        eos_token="<end_of_utterance>",
        additional_special_tokens=SPECIAL,
    )
    pictures = Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory) -> Policy:
    folder, reader = tmp_path_factory.mktemp("smolvlm"), processor()
    ids = {name: reader.tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = size | {"model_type": "llama", "vocab_size": len(reader.tokenizer), "num_key_value_heads": 1, "head_dim": 16}
    text |= {"pad_token_id": ids["<pad>"], "max_position_embeddings": 1024}
    vision = size | {"image_size": 32, "patch_size": 8}
    config = Idefics3Config(text_config=text, vision_config=vision, image_token_id=ids["<image>"], scale_factor=2)
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration(config)
    for parameter in model.parameters():  # wide, so that answers differ
        torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config = GenerationConfig(eos_token_id=ids["<end_of_utterance>"], pad_token_id=ids["<pad>"])
    model.save_pretrained(folder)
    reader.save_pretrained(folder)
    return load_policy(str(folder), dtype="float32")


def test_crops_are_counted_and_the_image_reaches_the_logits(smolvlm, images):
    sizes = [(64, 64), (32, 32), (64, 32)]
    films = [image.resize(size) for image, size in zip(images, sizes, strict=True)]
    prompts = smolvlm.encode(films, TEXTS)
    image_tokens = (prompts.input_ids == smolvlm.base.config.image_token_id).sum(1).tolist()
    assert [len(f) for f in smolvlm.with_features(prompts).features] == image_tokens
    assert prompts.attention_mask[:, -1].tolist() == [1, 1, 1]
    ids, mask = pad_right([[5]] * 3, 0)
    one = completion_scores(smolvlm, prompts, ids, mask).logp
    other = smolvlm.encode([f.transpose(Image.Transpose.ROTATE_180) for f in films], TEXTS)
    assert ((one - completion_scores(smolvlm, other, ids, mask).logp).abs() > 1e-4).all()


def test_greedy_equals_the_models_own_generate(smolvlm, images):
    prompts = smolvlm.encode(images, TEXTS)
    ours = greedy_is_generate(smolvlm, prompts, 12)
    assert len({tuple(row) for row in ours.ids.tolist()}) > 1
    assert smolvlm.base.config.image_token_id in smolvlm.banned_ids


def test_it_is_evaluated_like_the_others(smolvlm, studies, tmp_path):
    batch = cache_films(smolvlm, None, str(tmp_path)).collate()([(Sample(s, "Describe."), 0.0) for s in studies[:3]])
    found = predict_batch(smolvlm, batch, AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION), 6)
    assert [p.study_id for p in found] == [s.study_id for s in studies[:3]]
    with pytest.raises(ValueError, match=r"do_image_splitting.*paths\.image_cache=null"):
        smolvlm.resize(Image.new("RGB", (64, 64)))


@pytest.mark.parametrize("key", ["do_image_splitting", "image_seq_len", "max_image_size", "do_pan_and_scan"])
def test_splitting_is_what_the_folder_says_and_what_does_not_fit_is_refused(smolvlm, images, tmp_path, key):
    folder = shutil.copytree(smolvlm.source, tmp_path / "model")
    content = json.loads((folder / "processor_config.json").read_text())
    said = {"do_image_splitting": False, "image_seq_len": 9, "max_image_size": {"longest_edge": 64}}
    (content if key == "image_seq_len" else content["image_processor"])[key] = said.get(key, True)
    (folder / "processor_config.json").write_text(json.dumps(content))
    if key != "do_image_splitting":
        with pytest.raises(ValueError, match=rf"its processor says {key}="):
            load_policy(str(folder), dtype="float32")
        return
    policy = load_policy(str(folder), dtype="float32")
    whole = policy.encode(images[2:], ["Hi"])
    assert torch.equal(policy.encode([policy.resize(images[2])], ["Hi"], resized=True).pixel_values, whole.pixel_values)
    assert [len(found) for found in policy.with_features(whole).features] == [4]  # one picture
