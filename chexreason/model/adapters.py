"""LoRA adapters: where they go, how they are written in plain PEFT layout, how a chain of them becomes one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear, LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chexreason.files import file_sha256, read_sealed, whole_folder, write_sealed
from chexreason.model.policy import NEW, Policy

CARD, ADAPTER_CONFIG, WEIGHTS = "chexreason.json", "adapter_config.json", "adapter_model.safetensors"
_FILES = "files"  # in the card: the SHA-256 of the others
_AGAIN = "give another adapter, or train this one anew with restart=true"
# The language model's attention and feed-forward projections, of both architectures; never the vision tower.
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def attach_lora(policy: Policy, *, r: int = 16, alpha: int = 32, dropout: float = 0.1, targets: str = TARGETS) -> None:
    """Wrap the policy's model with a fresh LoRA adapter, the only trainable weights from then on.

    Adapters that a quantised model keeps beside its weights stay active and frozen. Raises ValueError when ``targets``
    matches no module, or touches the vision tower.
    """
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    if isinstance(policy.model, PeftModel):
        policy.model.add_adapter(NEW, config)
        policy.activate_adapters()
    else:
        policy.model = get_peft_model(policy.base, config)
    names = [n for n, p in policy.model.named_parameters() if p.requires_grad]
    if stray := [n for n in names if "vision" in n or "visual" in n]:
        raise ValueError(f"adapter.targets={targets!r} reaches the vision tower: {stray[0]}")
    for parameter in policy.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # AdamW on bf16 weights loses small updates


@contextmanager
def merged(policy: Policy) -> Iterator[None]:
    """The adapter added to the weights it adapts while the block runs; afterwards they are the same tensors again.

    A token then costs one product a projection instead of three. Only where the weights are float32: in bfloat16 the
    sum would round a small update away, and in 4 bits there is nothing to add to; such a policy is left as it is.
    """
    layers = [m for m in policy.model.modules() if isinstance(m, Linear) and m.weight.dtype == torch.float32]
    layers = [layer for layer in layers if not layer.disable_adapters and not layer.merged]
    originals = [layer.base_layer.weight.data for layer in layers]
    try:
        for layer, original in zip(layers, originals, strict=True):
            delta = sum(layer.get_delta_weight(name) for name in layer.active_adapters)
            layer.base_layer.weight.data = original + delta.detach()
            layer.merged_adapters.extend(layer.active_adapters)  # PEFT then runs the base layer alone
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.base_layer.weight.data = original  # subtracting would leave a rounding error behind
            layer.merged_adapters.clear()


def keep_adapter(model: Any, folder: str | Path, name: str) -> PeftModel:
    """The model with the adapter of ``folder`` beside its weights, frozen, under ``name``.

    Raises FileNotFoundError where the folder holds no adapter, ValueError where it belongs to another architecture or
    was trained on another base, in another precision or with another rank, or its weights fit no module.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise FileNotFoundError(f"no adapter in {folder} ({ADAPTER_CONFIG} is missing): give a run's adapter/best")
    check_sound(folder)
    _check_fit(model.get_base_model() if isinstance(model, PeftModel) else model, folder)
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), name)
        wrapped = model
        wrapped.base_model.set_adapter(list(wrapped.peft_config), inference_mode=True)
    else:
        wrapped = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    expected = {n.replace(f".{name}", "") for n in wrapped.state_dict() if "lora_" in n and f".{name}." in n}
    if unknown := set(load_file(folder / WEIGHTS)) ^ expected:
        raise ValueError(f"adapter {folder} does not fit the model: {len(unknown)} names differ, e.g. {min(unknown)}")
    for module in wrapped.modules():
        if isinstance(module, LoraLayer) and name in module.lora_dropout:
            module.lora_dropout[name] = nn.Identity()  # it was for its own training, and is frozen now
    return wrapped


def save_adapter(policy: Policy, folder: str | Path, card: Mapping[str, object], parents: Sequence[str] = ()) -> None:
    """Write the policy's adapter as ONE adapter over the base model, atomically.

    ``parents`` are the adapters that were merged or kept before this one was attached: their low-rank factors are
    stacked with it (rank adds up), so the folder loads with bare ``peft`` on the untouched base model. ``card``
    (prompt, label schema, label policy, ...) goes into ``chexreason.json`` beside the weights.
    """
    with whole_folder(Path(folder)) as staging:
        policy.model.save_pretrained(str(staging), selected_adapters=[NEW])
        _write_json(staging / ADAPTER_CONFIG, _config(staging) | {"base_model_name_or_path": policy.source})
        for parent in reversed(parents):
            _stack(staging, Path(parent))
        about = {"model_type": policy.base.config.model_type, "quantise": precision_of(policy.base)}
        about |= {"source": policy.source, "base_fingerprint": base_fingerprint(policy.base)}
        (staging / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        about[_FILES] = {name: file_sha256(staging / name) for name in (ADAPTER_CONFIG, WEIGHTS)}
        write_sealed(staging / CARD, {**card, **about})


def read_card(folder: str | Path) -> dict[str, Any]:
    """The card written beside an adapter; raises FileNotFoundError with the folder, and its neighbours, without one."""
    path = Path(folder) / CARD
    if not path.is_file():
        foreign = "it was not written by chexreason (merge it into its base with peft, and give that as model.source)"
        foreign += f", or has lost it: {_AGAIN}"
        what = f"holds no {CARD}: {foreign}" if path.parent.is_dir() else "is not there"
        beside = sorted(str(card.parent) for card in path.parent.parent.glob(f"*/{CARD}"))
        raise FileNotFoundError(f"adapter {folder} {what}" + (f"; beside it: {', '.join(beside)}" if beside else ""))
    return read_sealed(path, _AGAIN)


def check_sound(folder: Path) -> None:
    """Refuse (ValueError) an adapter whose files are not those that were written, or whose weights are not finite."""
    known = read_card(folder).get(_FILES, {}) if (folder / CARD).is_file() else {}
    for path in (folder / ADAPTER_CONFIG, folder / WEIGHTS):
        try:
            damaged = file_sha256(path) != known.get(path.name, file_sha256(path))
            if path.name == WEIGHTS and not damaged:
                damaged = not all(bool(weight.isfinite().all()) for weight in load_file(path).values())
            elif not damaged:
                damaged = not {"r", "lora_alpha"} <= json.loads(path.read_bytes()).keys()
        except (OSError, ValueError, AttributeError, SafetensorError):
            damaged = True
        if damaged:
            raise ValueError(f"{path} is damaged or missing, or not finite: {_AGAIN}")


def answer_tokens(folder: str | Path) -> int:
    """The longest answer an adapter, or one it was trained upon, has learned to write; 0 where it learned from none."""
    return int(read_card(folder).get("answer_tokens", 0))


def stack_factors(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], scales: tuple[float, float]
) -> dict[str, Tensor]:
    """Low-rank factors of the sum of two adapters: s1 B1 A1 + s2 B2 A2 = [s1 B1, s2 B2] [A1; A2], with scale 1.

    Raises ValueError where the two do not touch the same modules.
    """
    if set(first) != set(second):
        raise ValueError(f"adapters touch different modules, e.g. {min(set(first) ^ set(second))}")
    stacked = {}
    for name in first:
        if "lora_A" in name:
            stacked[name] = torch.cat([first[name].float(), second[name].float()], 0)  # [r1 + r2, in]
        else:
            stacked[name] = torch.cat([scales[0] * first[name].float(), scales[1] * second[name].float()], 1)
    return stacked


def _stack(staging: Path, parent: Path) -> None:
    """Put the factors of ``parent`` before those in ``staging``."""
    first, second = _config(parent), _config(staging)
    scales = (first["lora_alpha"] / first["r"], second["lora_alpha"] / second["r"])
    factors = stack_factors(load_file(parent / WEIGHTS), load_file(staging / WEIGHTS), scales)
    save_file({k: v.contiguous() for k, v in factors.items()}, staging / WEIGHTS, metadata={"format": "pt"})
    rank = first["r"] + second["r"]
    _write_json(staging / ADAPTER_CONFIG, second | {"r": rank, "lora_alpha": rank})


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text())
    return config


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def precision_of(model: Any) -> str | None:
    """The ``kind`` a model was loaded with; None in full precision."""
    return "nf4" if getattr(model, "is_loaded_in_4bit", False) else None


def base_fingerprint(model: nn.Module) -> str:
    """16 hex digits that stand for a base model's weights, alike in every dtype, quantised or with adapters merged.

    Hashes what low-rank adapters and 4-bit loading leave alone: the norms and biases, in bfloat16.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "lora_" not in name:
            digest.update(parameter.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_fit(base: Any, folder: Path) -> None:
    """Refuse (ValueError) an adapter of another architecture or precision, or, every misfit in one message, base."""
    config, card = _config(folder), read_card(folder) if (folder / CARD).is_file() else {}
    here = {"model_type": base.config.model_type, "quantise": precision_of(base)}
    trained = here | ({"quantise": None} | card if card else {})
    if trained["model_type"] != here["model_type"]:
        raise ValueError(f"adapter {folder} belongs to a {trained['model_type']} model, this is {here['model_type']}")
    if trained["quantise"] != here["quantise"]:
        then, now = (facts["quantise"] or "in full precision" for facts in (trained, here))
        raise ValueError(
            f"adapter {folder} was trained on a base {then}, this one is {now}: set "
            f"model.quantise={trained['quantise'] or 'null'}"
        )
    faults = _misfits(base, folder / WEIGHTS, int(config["r"]))
    if not faults and (known := card.get("base_fingerprint")) and known != (found := base_fingerprint(base)):
        faults = [f"it was trained on other weights (fingerprint {known}, this model's is {found})"]
    if faults:
        made_for = config.get("base_model_name_or_path") or "another model"
        raise ValueError(
            f"adapter {folder} does not fit the model: {'; '.join(faults)}. It was made for {made_for}: set model="
        )


def _misfits(model: nn.Module, weights: Path, rank: int) -> list[str]:
    """What of an adapter's ``weights`` does not fit ``model``, one text a kind of misfit."""
    modules = dict(model.named_modules())
    unknown, widths, ranks = [], [], []
    with safe_open(str(weights), "pt") as file:
        for key in sorted(file.keys()):
            name = key.removeprefix("base_model.model.").partition(".lora_")[0]
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
        (f"weights of another rank than {ADAPTER_CONFIG} says", ranks),
    )
    return [f"{len(found)} {kind}, e.g. {found[0]}" for kind, found in kinds if found]
