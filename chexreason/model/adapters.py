"""LoRA adapters: where they go, the one way they are applied, how a chain of them is written in plain PEFT layout."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import Linear
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from chexreason.files import file_sha256, read_sealed, whole_folder, write_sealed
from chexreason.model.policy import NEW, Policy

CARD, ADAPTER_CONFIG, WEIGHTS = "chexreason.json", "adapter_config.json", "adapter_model.safetensors"
_FILES = "files"  # in the card: the SHA-256 of the others
_AGAIN = "give another adapter, or train this one anew with restart=true"
# The language model's attention and feed-forward projections, of every family; never the vision tower.
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
# The dtype that adapters are kept and computed in, whatever the weights are in. PEFT computes float32 factors so, which
# makes a folder read by bare PEFT the same policy; bfloat16 weights would round away half of a small adapter's effect.
ADAPTER_DTYPE = torch.float32
VARIANTS = ("use_dora", "use_rslora", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save")  # none is read
VARIANTS += ("use_qalora", "use_bdlora", "alora_invocation_tokens", "layer_replication", "trainable_token_indices")
VARIANTS += ("target_parameters", "arrow_config", "kasa_config", "monteclora_config")


class AdaptedLinear(Linear):
    """A projection, in full precision or in 4 bits, with its adapters beside it: the one way in which they are applied.

    W x + [s1 B1, s2 B2] [A1; A2] x, the low-rank products and the sum in ``ADAPTER_DTYPE`` (under autocast too), then
    rounded to the dtype of W x. The adapter under training alone has dropout.
    """

    fixed: Tensor | tuple[Tensor, Tensor] | None = None  # while nothing changes: the sum of all, or the two factors

    def factors(self) -> tuple[Tensor, Tensor]:
        """The active adapters as one, [R, in] and [out, R], their scales in the second."""
        downs = [self.lora_A[name].weight for name in self.active_adapters]
        ups = [self.scaling[name] * self.lora_B[name].weight for name in self.active_adapters]
        return torch.cat(downs), torch.cat(ups, 1)

    def fix(self) -> None:
        """Compute now what every further pass needs; ``set_adapter`` and ``fixed = None`` end it."""
        if self.disable_adapters or not self.active_adapters:
            return
        down, up = (factor.detach() for factor in self.factors())
        weight = self.base_layer.weight.detach()
        whole = weight.dtype == torch.promote_types(ADAPTER_DTYPE, weight.dtype)
        whole = whole and not torch.is_autocast_enabled("cuda" if weight.is_cuda else "cpu")
        self.fixed = weight + up @ down if whole else (down, up)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode)
        self.fixed = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or not self.active_adapters:
            return self.base_layer(x)
        if isinstance(self.fixed, Tensor):
            return functional.linear(x, self.fixed, self.base_layer.bias)
        result = self.base_layer(x)
        with torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False):
            down, up = self.fixed or self.factors()
            wide = x.to(torch.promote_types(ADAPTER_DTYPE, x.dtype))
            hidden = functional.linear(wide, down)  # [..., R]
            if self.training and NEW in self.active_adapters and isinstance(self.lora_dropout[NEW], nn.Dropout):
                new = self.lora_A[NEW](self.lora_dropout[NEW](wide))
                hidden = torch.cat([hidden[..., : -self.r[NEW]], new], -1)
            return (result + functional.linear(hidden, up)).to(result.dtype)


def attach_lora(policy: Policy, *, r: int = 16, alpha: int = 32, dropout: float = 0.1, targets: str = TARGETS) -> None:
    """Wrap the policy's model with a fresh LoRA adapter, the only trainable weights from then on.

    Earlier adapters stay active and frozen. Raises ValueError when ``targets`` matches no module, touches the vision
    tower, or reaches other modules than the earlier adapters.
    """
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    policy.model = _beside(policy.model, NEW, config)
    policy.activate_adapters()
    names = [n for n, p in policy.model.named_parameters() if p.requires_grad]
    if stray := [n for n in names if "vision" in n or "visual" in n]:
        raise ValueError(f"adapter.targets={targets!r} reaches the vision tower: {stray[0]}")
    wanted = {*policy.frozen_adapters(), NEW}
    if apart := [n for n, layer in _adapted(policy) if set(layer.lora_A) != wanted]:
        raise ValueError(
            f"adapter.targets={targets!r} and the earlier adapters (adapters=) reach different modules, e.g. "
            f"{apart[0]}: set adapter.targets as the earlier ones were trained"
        )


@contextmanager
def unchanging(policy: Policy) -> Iterator[None]:
    """No adapter changes while the block runs, so each projection prepares what it adds once, not at every token.

    Where weights are float32 the adapters are added to a copy of them: one product a projection instead of three. In
    bfloat16 that sum would round a small adapter away, and in 4 bits there is nothing to add to.
    """
    layers = [layer for _, layer in _adapted(policy)]
    try:
        for layer in layers:
            layer.fix()
        yield
    finally:
        for layer in layers:
            layer.fixed = None


def keep_adapter(model: Any, folder: str | Path, name: str) -> PeftModel:
    """The model with the adapter of ``folder`` beside its weights, frozen, under ``name``.

    Raises FileNotFoundError where the folder holds no adapter, ValueError where it belongs to another architecture or
    was trained on another base, in another precision, with another rank or a variant of LoRA, or fits no module.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise FileNotFoundError(
            f"no adapter in {folder} ({ADAPTER_CONFIG} is missing): train it first, or give a run's adapter/best"
        )
    check_sound(folder)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    made_for, config, weights = _check_fit(base, folder), plain_config(folder), load_file(folder / WEIGHTS)
    scale = {"r": config["r"], "lora_alpha": config["lora_alpha"]}
    # Weights and whole names say which modules: PEFT may look for a pattern or a long list for ever.
    wanted, layers, listed = {}, dict(base.named_modules()), config.get("target_modules")
    named = {n.removeprefix("base_model.model.").rpartition(".lora_")[0] for n in weights}
    named |= {n for n in listed if isinstance(n, str)} if isinstance(listed, list) else set()
    for module in named & layers.keys():
        wide, high = (getattr(layers[module], f"{side}_features", 0) for side in ("in", "out"))
        wanted |= {f"base_model.model.{module}.lora_A.weight": [scale["r"], wide]}
        wanted |= {f"base_model.model.{module}.lora_B.weight": [high, scale["r"]]}
    names = sorted(set(weights) ^ set(wanted))
    sizes = [n for n in sorted(set(weights) & set(wanted)) if list(weights[n].shape) != wanted[n]]
    faults = [f"{len(names)} names differ, e.g. {names[0]}"] if names else []
    if sizes:
        shapes = f"{list(weights[sizes[0]].shape)} for {wanted[sizes[0]]}"
        faults.append(f"{len(sizes)} weights have another size (rank {config['r']}), e.g. {sizes[0]}: {shapes}")
    if faults or not wanted:
        raise ValueError(f"adapter {folder} does not fit the model: {'; '.join(faults) or 'no weight'}. {made_for}")
    modules = sorted({n.split(".", 2)[2].rpartition(".lora_")[0] for n in wanted})
    wrapped = _beside(model, name, LoraConfig(target_modules=modules, task_type="CAUSAL_LM", **scale))
    wrapped.base_model.set_adapter(list(wrapped.peft_config), inference_mode=True)
    set_peft_model_state_dict(wrapped, weights, name)
    return wrapped


def blank_adapter(policy: Policy, rank: int) -> None:
    """Keep an adapter of ``rank`` that does nothing beside the weights: one of ``adapters=`` by its size."""
    policy.model = _beside(policy.model, "blank", LoraConfig(r=rank, target_modules=TARGETS))


def _beside(model: Any, name: str, config: LoraConfig) -> PeftModel:
    """The model with a fresh adapter, whose every projection is an ``AdaptedLinear``."""
    config._register_custom_module({nn.Linear: AdaptedLinear})
    with next(model.parameters()).device:  # PEFT leaves a second adapter of the meta device on the CPU
        if not isinstance(model, PeftModel):
            return get_peft_model(model, config, adapter_name=name)
        model.add_adapter(name, config)
        return model


def _adapted(policy: Policy) -> list[tuple[str, AdaptedLinear]]:
    return [(name, module) for name, module in policy.base.named_modules() if isinstance(module, AdaptedLinear)]


def save_adapter(policy: Policy, folder: str | Path, card: Mapping[str, object]) -> None:
    """Write the policy's adapters as ONE adapter over the base model, atomically.

    The low-rank factors of earlier adapters are stacked with the one under training (rank adds up), so the folder loads
    with bare ``peft`` on the untouched base model. ``card`` (prompt, label schema, label policy, ...) goes into
    ``chexreason.json`` beside the weights.
    """
    with whole_folder(Path(folder)) as staging:
        policy.model.save_pretrained(str(staging), selected_adapters=[NEW])
        named = {"base_model_name_or_path": policy.source, "target_modules": sorted(n for n, _ in _adapted(policy))}
        config = plain_config(staging) | named
        if policy.frozen_adapters():
            factors = {
                f"base_model.model.{name}.lora_{side}.weight": factor.detach().cpu().contiguous()
                for name, layer in _adapted(policy)
                for side, factor in zip("AB", layer.factors(), strict=True)
            }
            save_file(factors, staging / WEIGHTS, metadata={"format": "pt"})
            rank = sum(adapter.r for adapter in policy.model.peft_config.values())
            config |= {"r": rank, "lora_alpha": rank}
        about = {"model_type": policy.base.config.model_type, "quantise": precision_of(policy.base)}
        about |= {"source": policy.source, "base_fingerprint": base_fingerprint(policy.base)}
        (staging / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        seal_adapter(staging, config, {**card, **about})


def seal_adapter(folder: Path, config: Mapping[str, Any], card: Mapping[str, object]) -> None:
    """Write PEFT's ``config`` beside the weights in ``folder``, and the ``card``, which vouches for both."""
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    files = {name: file_sha256(folder / name) for name in (ADAPTER_CONFIG, WEIGHTS)}
    write_sealed(folder / CARD, {**card, _FILES: files})


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


def trained_on(folder: str | Path) -> list[dict[str, Any]]:
    """The sets that an adapter, or a model merged with one, learned from: ``set``, ``public`` and ``data_sha256``."""
    return list(read_card(folder).get("training_sets") or [{"set": "not recorded", "public": None}])


def check_sound(folder: Path) -> None:
    """Refuse (ValueError) an adapter whose files are not those that were written, or whose weights are not finite."""
    if not (folder / ADAPTER_CONFIG).exists() and not (folder / WEIGHTS).exists():
        raise ValueError(f"{folder} holds no adapter: give the folder of one, such as a run's adapter/best")
    known = read_card(folder).get(_FILES, {}) if (folder / CARD).is_file() else {}
    for path in (folder / ADAPTER_CONFIG, folder / WEIGHTS):
        try:
            damaged = file_sha256(path) != known.get(path.name, file_sha256(path))
            if path.name == WEIGHTS and not damaged:
                damaged = not all(bool(weight.isfinite().all()) for weight in load_file(path).values())
            elif not damaged:
                rank, alpha = map(json.loads(path.read_bytes()).get, ("r", "lora_alpha"))
                damaged = type(rank) is not int or rank < 1 or not math.isfinite(alpha)
        except (OSError, ValueError, TypeError, AttributeError, SafetensorError, OverflowError, RecursionError):
            damaged = True
        if damaged:
            raise ValueError(f"{path} is damaged or missing, or not finite: {_AGAIN}")


def answer_tokens(folder: str | Path) -> int:
    """The longest answer an adapter, or one it was trained upon, has learned to write; 0 where it learned from none."""
    return int(read_card(folder).get("answer_tokens", 0))


def rank_of(folder: str | Path) -> int | None:
    """The rank of an adapter; None where the folder holds none yet."""
    return int(plain_config(Path(folder))["r"]) if (Path(folder) / ADAPTER_CONFIG).is_file() else None


def plain_config(folder: Path) -> dict[str, Any]:
    """PEFT's config of an adapter; raises ValueError where it is another variant than plain LoRA."""
    config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text())
    odd = ", ".join(n for n in ("peft_type", *VARIANTS) if config.get(n) not in (None, "LORA", False, [], {}))
    if odd:
        raise ValueError(f"adapter {folder} is no plain LoRA ({odd} in {ADAPTER_CONFIG}): train one without")
    return config


def precision_of(model: Any) -> str | None:
    """The ``kind`` a model was loaded with; None in full precision."""
    return "nf4" if getattr(model, "is_loaded_in_4bit", False) else None


def base_fingerprint(model: nn.Module) -> str:
    """16 hex digits that stand for a base model's weights, alike in every dtype, quantised or with adapters.

    Hashes what low-rank adapters and 4-bit loading leave alone: the norms and biases, in bfloat16.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "lora_" not in name:
            digest.update(parameter.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_fit(base: Any, folder: Path) -> str:
    """Refuse (ValueError) an adapter of another architecture, precision or base; returns which base it was made for."""
    config, card = plain_config(folder), read_card(folder) if (folder / CARD).is_file() else {}
    made_for = f"It was made for {config.get('base_model_name_or_path') or 'another model'}: choose its model="
    here = {"model_type": base.config.model_type, "quantise": precision_of(base)}
    trained = here | ({"quantise": None} | card if card else {})
    if trained["model_type"] != here["model_type"]:
        raise ValueError(
            f"adapter {folder} belongs to a {trained['model_type']} model, this is {here['model_type']}. {made_for}"
        )
    if trained["quantise"] != here["quantise"]:
        then, now = (facts["quantise"] or "in full precision" for facts in (trained, here))
        raise ValueError(
            f"adapter {folder} was trained on a base {then}, this one is {now}: set "
            f"model.quantise={trained['quantise'] or 'null'}"
        )
    if (known := card.get("base_fingerprint")) and known != (found := base_fingerprint(base)):
        what = f"it was trained on other weights (fingerprint {known}, this model's is {found})"
        raise ValueError(f"adapter {folder} does not fit the model: {what}. {made_for}")
    return made_for
