"""What every family is tested with: the two packaged models, and a small Qwen3-VL of random weights.

A new family goes through the same tests with an entry here: a folder that ``load_policy`` reads.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

PACKAGED = ("tiny_gemma3", "tiny_qwen2_5_vl")
FAMILIES = (*PACKAGED, "random_qwen3_vl")
_SMALL = {"hidden_size": 32, "intermediate_size": 48}
_TEXT = _SMALL | {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
_TEXT |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}}
_EYE = _SMALL | {"depth": 3, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 64}
_EYE |= {"deepstack_visual_indexes": [0, 1]}


@functools.cache
def source_of(name: str) -> str:
    """The ``model.source`` of a packaged model, or of the small Qwen3-VL, written once a process."""
    if name in PACKAGED:
        return f"tiny:{name}"
    folder = tempfile.mkdtemp(prefix=name)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _write_qwen3_vl(Path(folder))
    return folder


def _write_qwen3_vl(folder: Path) -> None:
    """Tokenizer, template and image sizes of the packaged Qwen2.5-VL, whose words and patches are the same."""
    import torch  # here, since pytest's controller reads this file and runs no test
    from transformers import (
        AutoProcessor,
        GenerationConfig,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
    )

    from chexreason.model.load import resolve_source

    packaged = AutoProcessor.from_pretrained(resolve_source(f"tiny:{PACKAGED[1]}"))
    parts = packaged.image_processor, packaged.tokenizer, packaged.video_processor
    Qwen3VLProcessor(*parts, chat_template=packaged.chat_template).save_pretrained(folder)
    ids = packaged.tokenizer.convert_tokens_to_ids
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad", "vision_start_token_id": "vision_start"}
    special = {key: ids(f"<|{name}|>") for key, name in (names | {"vision_end_token_id": "vision_end"}).items()}
    stops = [ids("<|im_end|>"), ids("<|endoftext|>")]
    text = _TEXT | {"vocab_size": len(packaged.tokenizer), "max_position_embeddings": 2048, "eos_token_id": stops[0]}
    config = Qwen3VLConfig(text_config=text, vision_config=_EYE, tie_word_embeddings=True, **special)
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    for parameter in model.parameters():  # wide, so that answers differ and the image matters
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=packaged.tokenizer.pad_token_id)
    model.save_pretrained(folder)
