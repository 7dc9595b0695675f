"""Two small tokenizers in the families' own forms, trained on the words of this project; both keep any UTF-8 text."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GemmaTokenizer, PreTrainedTokenizerBase, Qwen2Tokenizer

from chexreason.labels.catalog import CHEXPERT14, LABEL_SETS
from chexreason.prompts import load_prompt, render
from chexreason.traces.template import TemplateTeacher
from chexreason.types import Sign, Study
from tools.tiny_models import dialogues, shapes

VOCAB_SIZE = 2048
CHAT_WORDS = ("user\n", "model\n", "system\nYou are a helpful assistant.", "assistant\n")
PROMPTS = ("free_reasoning", "only_label", "reasoning_a", "reasoning_narrative")
TAGS = ["<think>", "</think>", "<solution>", "</solution>"]
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
GEMMA_TURNS = ["<start_of_turn>", "<end_of_turn>"]
GEMMA_IMAGE = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
QWEN_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# Words with their leading space, single digits, and runs of anything else: no token crosses a word.
GEMMA_SPLIT = r"▁?\p{L}+|\p{N}|▁?[^\p{L}\p{N}▁\n]+|\n|▁"


def build_tokenizer(name: str, prompt_folder: Path, seed: int = 0) -> PreTrainedTokenizerBase:
    """The named model's tokenizer, trained on :func:`corpus`."""
    texts = corpus(prompt_folder, seed)
    return _gemma(texts) if name == "tiny_gemma3" else _qwen(texts)


def corpus(prompt_folder: Path, seed: int, n: int = 1500) -> list[str]:
    """Prompts, teacher answers, captions, questions, tasks and geometry, without the answer tags."""
    rng = random.Random(seed)
    teacher = TemplateTeacher(seed)
    prompts = [load_prompt(name, prompt_folder) for name in PROMPTS]
    texts = [render(prompt, labels) for prompt in prompts for labels in LABEL_SETS.values()] * 40
    texts += [*CHAT_WORDS, *LABEL_SETS["chexpert14"]] * 40
    for index in range(n):
        study = random_study(f"corpus-{index}", rng)
        turns = [dialogues.caption(study, rng), *dialogues.questions(study, rng, 3)]
        turns.append(dialogues.task(study, (rng.uniform(60, 180), rng.uniform(60, 180)), rng))
        drawn = shapes.sample_shapes(rng)
        turns += [shapes.caption(drawn, rng), shapes.question(drawn, rng), shapes.task(drawn, rng)]
        texts += [part for turn in turns for part in turn]
        texts += [teacher.write(study, prompt, CHEXPERT14) for prompt in prompts]
    for tag in TAGS:
        texts = [text.replace(tag, "\n") for text in texts]
    return texts


def random_study(study_id: str, rng: random.Random) -> Study:
    """A study with random labels, sides and severities and no image: words only."""
    diseases = [label for label in CHEXPERT14 if label not in {"No Finding", "Support Devices"}]
    found = rng.sample(diseases, rng.choice((0, 1, 2, 3, 4)))
    names = [*(found or ["No Finding"]), *(["Support Devices"] if rng.random() < 0.3 else [])]
    sides = ("left", "right", "both", "")
    signs = tuple(Sign(label, rng.choice(sides), rng.random()) for label in found)
    view = rng.choice(("PA", "AP", ""))
    target = CHEXPERT14.encode(names)
    return Study(study_id, study_id, "words", Path("none"), target, (True,) * len(target), view=view, signs=signs)


def _gemma(texts: list[str]) -> GemmaTokenizer:
    """SentencePiece-like: spaces become "▁", unknown characters fall back to bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(GEMMA_SPLIT), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    size = VOCAB_SIZE - len(TAGS) - len(GEMMA_TURNS) - len(GEMMA_IMAGE)
    tokenizer.train_from_iterator(texts, _trainer(size, [*GEMMA_SPECIAL, *byte_tokens]))
    vocab, merges = _learned(tokenizer)
    ready = GemmaTokenizer(
        vocab=vocab, merges=merges, extra_special_tokens=GEMMA_TURNS, padding_side="left", **GEMMA_IMAGE
    )
    ready.add_tokens(TAGS)
    return ready


def _qwen(texts: list[str]) -> Qwen2Tokenizer:
    """Byte-level, with Qwen's own word pattern."""
    start = Qwen2Tokenizer()  # empty: lends its normaliser, word pattern and decoder
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = start.backend_tokenizer.normalizer
    tokenizer.pre_tokenizer = start.backend_tokenizer.pre_tokenizer
    size = VOCAB_SIZE - len(TAGS) - len(QWEN_SPECIAL)
    tokenizer.train_from_iterator(texts, _trainer(size, [], pre_tokenizers.ByteLevel.alphabet()))
    vocab, merges = _learned(tokenizer)
    ready = Qwen2Tokenizer(vocab=vocab, merges=merges, extra_special_tokens=QWEN_SPECIAL[1:], padding_side="left")
    ready.add_tokens(TAGS)
    return ready


def _trainer(size: int, special: list[str], alphabet: list[str] | None = None) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet or [], min_frequency=2, show_progress=False
    )


def _learned(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a trained tokenizer, from its JSON form."""
    state = json.loads(tokenizer.to_str())["model"]
    return state["vocab"], [tuple(merge) for merge in state["merges"]]
