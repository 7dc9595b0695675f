"""Does an adapter belong to this model: its weights' names and shapes, and the base they were trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

CARD, CONFIG, WEIGHTS = "chexreason.json", "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _FACTOR = "base_model.model.", ".lora_"


def base_fingerprint(model: nn.Module) -> str:
    """16 hex digits that stand for a base model's weights, alike in every dtype, quantised or with adapters merged.

    Hashes what low-rank adapters and 4-bit loading leave alone: the norms and biases, in bfloat16.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "lora_" not in name:
            digest.update(parameter.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_fit(model: nn.Module, folder: str | Path) -> None:
    """Refuse (ValueError, every kind of misfit in one message) an adapter made for another base or another rank.

    ``model`` is the base model, or one that keeps earlier adapters beside its weights.
    """
    folder = Path(folder)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = json.loads((folder / CONFIG).read_text())
    faults = _misfits(base, folder / WEIGHTS, int(config["r"]))
    card = json.loads((folder / CARD).read_text()) if (folder / CARD).is_file() else {}
    trained_on = card.get("base_fingerprint")
    if not faults and trained_on is not None and trained_on != (here := base_fingerprint(base)):
        faults = [f"it was trained on other weights (fingerprint {trained_on}, this model's is {here})"]
    if faults:
        made_for = config.get("base_model_name_or_path") or "another model"
        raise ValueError(
            f"adapter {folder} does not fit the model: {'; '.join(faults)}. It was made for {made_for}: set model="
        )


def _misfits(model: nn.Module, weights: Path, rank: int) -> list[str]:
    modules = dict(model.named_modules())
    unknown, widths, ranks = [], [], []
    with safe_open(str(weights), "pt") as file:
        for key in sorted(file.keys()):
            name = key.removeprefix(_PREFIX).partition(_FACTOR)[0]
            outer, inner = file.get_slice(key).get_shape()[:2]  # A is [r, in], B is [out, r]
            is_a = ".lora_A" in key
            found, width = (outer, inner) if is_a else (inner, outer)
            module = modules.get(name)
            if module is None:
                unknown.append(name)
            elif width != (wanted := module.in_features if is_a else module.out_features):
                widths.append(f"{name}: {width} for {wanted}")
            elif found != rank:
                ranks.append(f"{name}: {found} for {rank}")
    kinds = (
        ("names differ from the modules of the model", unknown),
        ("weights of another width", widths),
        (f"weights of another rank than {CONFIG} says", ranks),
    )
    return [f"{len(found)} {kind}, e.g. {found[0]}" for kind, found in kinds if found]
