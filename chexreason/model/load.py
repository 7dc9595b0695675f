"""Load a policy: hub id, local folder or one of the packaged tiny models, all through the same code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from chexreason.model.adapters import AdaptedLinear, keep_adapter
from chexreason.model.family import family_of
from chexreason.model.policy import Policy

TINY_WEIGHTS = Path(__file__).parent / "weights"
# Not quantised, in any family: images are encoded in full precision, and the head is the embedding.
KEPT = ("model.vision_tower", "model.multi_modal_projector", "model.visual", "lm_head")


def resolve_source(source: str) -> str:
    """Turn ``tiny:NAME`` into the packaged folder; any other source is returned as it is.

    Raises FileNotFoundError naming the packaged models, or the folder that has no ``config.json``.
    """
    if source.startswith("tiny:"):
        folder = TINY_WEIGHTS / source.removeprefix("tiny:")
        if not (folder / "config.json").is_file():
            known = sorted(p.name for p in TINY_WEIGHTS.iterdir() if p.is_dir())
            raise FileNotFoundError(f"no packaged model '{source}'; packaged: {', '.join('tiny:' + k for k in known)}")
        return str(folder)
    looks_local = source.startswith(("/", ".", "~"))
    if looks_local and not (Path(source).expanduser() / "config.json").is_file():
        raise FileNotFoundError(f"model.source={source}: no config.json there; give a hub id or a model's folder")
    return str(Path(source).expanduser()) if looks_local else source


def load_policy(
    source: str,
    *,
    family: str | None = None,
    dtype: str = "bfloat16",
    attention: str = "sdpa",
    adapters: Sequence[str] = (),
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    gradient_checkpointing: bool = False,
    quantise: str | None = None,
) -> Policy:
    """A policy ready to train or evaluate, on the CPU.

    ``source`` is a hub id, a local folder or ``tiny:NAME``; ``family`` is the path of a class as ``family_of`` takes it
    (None: this package's own for the architecture); ``adapters`` are folders in PEFT layout, kept beside the
    weights, frozen; ``min_pixels`` and ``max_pixels`` bound the image size of processors that choose it themselves
    (Qwen-VL). ``quantise`` ("nf4") loads the weights in 4 bits. Weights are read from safetensors only and no remote
    code is run.

    Raises OSError, with the way out, where the model cannot be had, ValueError for an unsupported architecture, and
    for a processor that asks for what is not done or does not fit the model.
    """
    path = resolve_source(source)
    try:
        config = AutoConfig.from_pretrained(path)
        reading = family_of(config.model_type, family)  # before gigabytes are fetched
        processor = AutoProcessor.from_pretrained(path)
        check_processor(processor, reading.processor_settings(config), source)
        bound_pixels(processor, min_pixels, max_pixels)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            path,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            use_safetensors=True,
            **quantisation(quantise),
        )
    except OSError as error:
        raise OSError(f"model.source={source}: {_reason(error, source)}") from error
    keep_differentiable(model)
    for n, folder in enumerate(adapters):
        model = keep_adapter(model, folder, f"earlier{n}")
    model.requires_grad_(False)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Policy(model, processor, source, reading)


def quantisation(kind: str | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that load the weights as ``kind``; none where that is None.

    "nf4" is QLoRA's (arXiv 2305.14314): 4-bit NormalFloat, its block scales quantised too, products in bfloat16.
    Raises ValueError for any other name.
    """
    if kind is None:
        return {}
    if kind != "nf4":
        raise ValueError(f"model.quantise={kind!r} is not known: use nf4, or null for full precision")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(KEPT),
    )
    return {"quantization_config": config, "device_map": {"": "cpu"}}


def keep_differentiable(model: Any) -> None:
    """Stop the CPU kernel of AVX512-BF16 machines: after one pass in evaluation its packed weights pass no gradient."""
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def check_processor(processor: Any, needed: Mapping[str, Any], source: str) -> None:
    """Refuse (ValueError) settings of a model's folder that are not in force, or do not fit the model."""
    wrong = []
    for name, value in needed.items():
        found = getattr(processor, name, getattr(processor.image_processor, name, None))
        found = {k: v for k, v in dict(found).items() if v is not None} if isinstance(value, dict) else found
        if found != value and (found or value):
            wrong.append(f"{name}={found}, where this model is read with {name}={value}")
    if wrong:
        raise ValueError(
            f"model.source={source}: its processor says {'; '.join(wrong)}. Set that in processor_config.json (or "
            "preprocessor_config.json) of a copy of the model (hf download), and give the copy as model.source"
        )


def bound_pixels(processor: Any, low: int | None, high: int | None) -> None:
    """Bound the images of a processor that chooses their size itself; raises ValueError where it does not."""
    bounds = {name: n for name, n in (("shortest_edge", low), ("longest_edge", high)) if n is not None}
    size = dict(processor.image_processor.size)
    if bounds and "longest_edge" not in size:
        raise ValueError(f"this model brings every image to {size}: take model.min_pixels and model.max_pixels away")
    size |= bounds
    if bounds and size["shortest_edge"] > size["longest_edge"]:
        raise ValueError(f"model.min_pixels={size['shortest_edge']} exceeds model.max_pixels={size['longest_edge']}")
    if bounds:
        processor.image_processor.size = type(processor.image_processor.size)(**size)


def _reason(error: BaseException, source: str) -> str:
    """Why a model cannot be had, and what to do."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    local = f"or fetch it elsewhere (hf download {source} --local-dir FOLDER) and set model.source=FOLDER"
    reasons = (  # a gated model is also one not found
        (
            GatedRepoError,
            "the model is gated: accept its terms on its hub page, then run `hf auth login` or set HF_TOKEN",
        ),
        (RepositoryNotFoundError, "the hub has no such model, or it is private: check the name, run `hf auth login`"),
        (LocalEntryNotFoundError, "the hub cannot be reached and the model is not in its cache: check the network"),
    )
    for kind, reason in reasons:
        if any(isinstance(cause, kind) for cause in causes):
            return f"{reason}, {local}"
    return str(error)


@torch.no_grad()
def merge(policy: Policy, dtype: torch.dtype) -> tuple[Any, float]:
    """The policy's float32 model with its adapters added, in ``dtype``, and the error of that beside what they add."""
    error, added = 0.0, 0.0
    for layer in (m for m in policy.base.modules() if isinstance(m, AdaptedLinear)):
        down, up = layer.factors()
        layer.base_layer.weight += (change := up @ down)
        rounded = layer.base_layer.weight.to(dtype).float() - layer.base_layer.weight
        error, added = error + float(rounded.norm() ** 2), added + float(change.norm() ** 2)
    return policy.model.base_model.unload().to(dtype), (error / added) ** 0.5 if added else 0.0
