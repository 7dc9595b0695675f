"""A blend of two adapters: one adapter whose weight changes are a mixture of theirs, or lie beyond them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chexreason.files import file_sha256, value_sha256, whole_folder
from chexreason.model.adapters import WEIGHTS, check_sound, plain_config, read_card, seal_adapter, trained_on

_ALIKE = {  # in the cards of both: what is compared, and how a user calls it
    "model_type": "architecture",
    "base_fingerprint": "base weights",
    "quantise": "precision of the base",
    "prompt": "prompt",
    "labels": "labels",
}
_OF_ONE = ("phase", "seed", "step", "monitor", "value", "data")  # what a card says of one training alone
Factors = Mapping[str, tuple[Tensor, Tensor]]  # A [r, in] and B [out, r] of each projection, the scale in B


def write_blend(adapters: Sequence[str], alpha: float, folder: Path) -> None:
    """Write the adapter whose weight change is (1 - alpha) dW of the first and alpha dW of the second, atomically.

    The mixture is of the weight changes, not of the factors: these are stacked, and the ranks add up. An ``alpha``
    outside 0..1 extrapolates. Raises ValueError where it is not finite, where there are not two adapters, or they
    differ in base model, precision, prompt, labels or modules.
    Source: Wortsman et al. 2022, robust fine-tuning by interpolation in weight space.
    """
    if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ValueError(f"alpha={alpha}: give a number; 0 is the first adapter, 1 the second")
    if len(adapters) != 2:
        raise ValueError(f"a blend is of two adapters, found {len(adapters)}: 'adapters=[FIRST, SECOND]'")
    for path in map(Path, adapters):
        check_sound(path)
    cards, factors = [read_card(path) for path in adapters], [_factors(Path(path)) for path in adapters]
    _check_alike(adapters, cards, factors)
    weights = {}
    for module, (down, up) in factors[0].items():
        other_down, other_up = factors[1][module]
        weights[f"{module}.lora_A.weight"] = torch.cat([down, other_down])
        weights[f"{module}.lora_B.weight"] = torch.cat([(1 - alpha) * up, alpha * other_up], 1)
    stored = {name: weight.float().contiguous() for name, weight in weights.items()}
    if not all(bool(weight.isfinite().all()) for weight in stored.values()):
        raise ValueError(f"alpha={alpha} makes weights that float32 cannot hold: choose a smaller one")
    rank = sum(len(down) for down, _ in (next(iter(each.values())) for each in factors))
    modules = sorted(name.split(".", 2)[2] for name in factors[0])
    config = plain_config(Path(adapters[1])) | {"r": rank, "lora_alpha": rank, "target_modules": modules}
    with whole_folder(folder) as staging:
        save_file(stored, staging / WEIGHTS, metadata={"format": "pt"})
        seal_adapter(staging, config, _card(adapters, cards, alpha))


def _factors(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors of each projection in float64."""
    config, weights = plain_config(folder), load_file(folder / WEIGHTS)
    scale = config["lora_alpha"] / config["r"]
    modules = [name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")]
    wide = {name: weight.double() for name, weight in weights.items()}
    return {name: (wide[f"{name}.lora_A.weight"], scale * wide[f"{name}.lora_B.weight"]) for name in modules}


def _check_alike(adapters: Sequence[str], cards: Sequence[Mapping[str, Any]], factors: Sequence[Factors]) -> None:
    """Refuse (ValueError) two adapters that no model could carry together."""
    pairs = [(name, [card.get(key) for card in cards]) for key, name in _ALIKE.items()]
    faults = [f"{name}: {' and '.join(map(_shown, pair))}" for name, pair in pairs if pair[0] != pair[1]]
    sizes = [{name: (down.shape[1], len(up)) for name, (down, up) in each.items()} for each in factors]
    odd = [name for name in sorted({*sizes[0], *sizes[1]}) if sizes[0].get(name) != sizes[1].get(name)]
    if odd:
        faults.append(f"{len(odd)} of the modules that they change, or their sizes, e.g. {odd[0]}")
    if faults:
        raise ValueError(
            f"{adapters[0]} and {adapters[1]} cannot be blended, they differ in\n  " + "\n  ".join(faults) + "\n"
            "blend an adapter with one that was trained on the same base with the same prompt and adapter.targets"
        )


def _shown(value: Any) -> str:
    """A value of a card; of a prompt or label set its name and a hash, since two may share the name."""
    return f"{value['name']} ({value_sha256(value)[:8]})" if isinstance(value, Mapping) else str(value)


def _card(adapters: Sequence[str], cards: Sequence[Mapping[str, Any]], alpha: float) -> dict[str, Any]:
    """The second one's card, with both parents, and with every set that either learned from or was chosen on."""
    parents = [
        {key: card.get(key) for key in _OF_ONE} | {"weights_sha256": file_sha256(Path(path, WEIGHTS))}
        for path, card in zip(adapters, cards, strict=True)
    ]
    sets = [row for path in adapters for row in trained_on(path)]
    both: dict[str, Any] = {
        "phase": "blend",
        "blend": {"alpha": alpha, "parents": parents},
        "training_sets": [row for n, row in enumerate(sets) if row not in sets[:n]],
        "chosen_on": sorted({name for card in cards for name in card.get("chosen_on") or ()}),
        "label_policies": {**cards[0].get("label_policies", {}), **cards[1].get("label_policies", {})},
        "answer_tokens": max(card.get("answer_tokens", 0) for card in cards),
    }
    return {key: value for key, value in cards[1].items() if key not in _OF_ONE} | both
