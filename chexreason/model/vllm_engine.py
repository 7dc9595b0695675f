"""Rollouts drawn by vLLM on a large GPU: it reads the adapter from a file, and the loss recomputes what it needs.

Written from vLLM's documentation and not run on a GPU by its authors: check ``train/mismatch`` first.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from chexreason.data.batches import Batch, EncodedPrompts, load_study
from chexreason.files import temporary_of
from chexreason.model.adapters import ADAPTER_CONFIG, precision_of, save_adapter
from chexreason.model.generate import Sampled, Sampling, key_seed
from chexreason.model.load import resolve_source
from chexreason.model.policy import Policy, pad_right
from chexreason.owners import remove_leftovers

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for
BAN = -100.0  # the lowest bias of the OpenAI protocol, that vLLM follows
COLDEST = 0.01  # vLLM raises a lower temperature to this without an error


class VllmEngine:
    """vLLM in this process's GPU, beside the model under training, with the base weights loaded a second time.

    vLLM reads the untouched base model and merges nothing, so each rollout hands over one adapter that holds the
    earlier ones and the one under training. vLLM rounds the factors to the weights' dtype. ``gpu_memory_utilization``
    is vLLM's share of the GPU, ``max_model_len`` bounds prompt and answer together. Raises ModuleNotFoundError where
    vLLM is not installed.
    """

    def __init__(
        self,
        *,
        gpu_memory_utilization: float = 0.4,
        max_model_len: int = 4096,
        enforce_eager: bool = False,
    ) -> None:
        try:
            import vllm  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "rollout=vllm needs vLLM: pip install 'chexreason[vllm]', or set rollout=shared_prefix"
            ) from error
        self.options = {"gpu_memory_utilization": gpu_memory_utilization, "enforce_eager": enforce_eager}
        self.max_model_len = max_model_len
        self._llm: Any = None
        self._rank = 0
        self._handed = 0
        self._folder = tempfile.TemporaryDirectory(prefix=temporary_of(Path("chexreason-vllm-")).name)
        remove_leftovers(Path(self._folder.name).parent)

    def draw(
        self,
        policy: Policy,
        batch: Batch,
        prompts: EncodedPrompts,
        sampling: Sampling,
        *,
        group_size: int,
        keys: Sequence[tuple[object, ...]],
    ) -> Sampled:
        """Hand the adapter over and draw one request a key.

        ``sampled_logp`` is vLLM's, of the distribution it drew from; how it differs from the training pass of the first
        update is what ``train/mismatch`` shows beside the truncation. Raises ValueError for several ranks, a quantised
        base, a temperature vLLM does not keep or a length it would cut, RuntimeError where it read another prompt.
        """
        self._check(policy, prompts, sampling)
        if len(keys) != (n := len(prompts) * group_size):
            raise ValueError(f"sampling needs one key for each of the {n} rows, got {len(keys)}")
        adapter = self._hand_over(policy)
        requests = _requests(policy, batch)
        outputs = self._engine(policy).generate(
            [request for request in requests for _ in range(group_size)],  # its prefix cache shares image and prompt
            [_sampling_params(policy, sampling, key) for key in keys],
            lora_request=adapter,
            use_tqdm=False,
        )
        for row, output in enumerate(outputs):
            study = row // group_size
            _check_prompt(prompts, study, output.prompt_token_ids, batch.samples[study].study.study_id)
        return _padded(policy, [output.outputs[0] for output in outputs])

    def _check(self, policy: Policy, prompts: EncodedPrompts, sampling: Sampling) -> None:
        """Refuse (ValueError) what vLLM would do otherwise than asked."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and (world := torch.distributed.get_world_size()) > 1:
            raise ValueError(f"rollout=vllm runs on one rank, this run has {world}: set rollout=shared_prefix")
        if (kind := precision_of(policy.base)) is not None:
            raise ValueError(
                f"rollout=vllm would draw from other weights than model.quantise={kind} trains: "
                "set rollout=shared_prefix"
            )
        if not COLDEST <= sampling.temperature <= 2:
            raise ValueError(
                f"rollout=vllm draws at a temperature of {COLDEST} to 2, not {sampling.temperature}: set "
                "phase.module.sampling.temperature, or rollout=shared_prefix"
            )
        longest = int(prompts.attention_mask.sum(1).max())
        if longest + sampling.max_new_tokens > self.max_model_len:
            raise ValueError(
                f"a prompt of {longest} tokens and an answer of {sampling.max_new_tokens} do not fit "
                f"rollout.max_model_len={self.max_model_len}, and vLLM would cut the answer off: raise it"
            )

    def _hand_over(self, policy: Policy) -> Any:
        """Write the adapter to a fresh folder, remove the last one, and name it as vLLM never saw it before.

        vLLM keeps an adapter by its number and the prompt's keys and values by its name: either one, used again, would
        bring back old weights without an error.
        """
        from vllm.lora.request import LoRARequest

        self._handed += 1
        name = f"rollout{self._handed}"
        folder = Path(self._folder.name) / name
        save_adapter(policy, folder, {})
        self._rank = int(json.loads((folder / ADAPTER_CONFIG).read_text())["r"])
        shutil.rmtree(folder.with_name(f"rollout{self._handed - 1}"), ignore_errors=True)
        return LoRARequest(name, self._handed, str(folder))

    def _engine(self, policy: Policy) -> Any:
        """vLLM with the base model, started at the first rollout, when the adapter's rank is known."""
        if self._llm is None:
            from vllm import LLM

            self._llm = LLM(
                model=resolve_source(policy.source),
                dtype=str(policy.base.dtype).removeprefix("torch."),
                max_model_len=min(self.max_model_len, policy.encoder.context),
                enable_lora=True,
                max_loras=1,
                max_lora_rank=_room_for(self._rank),
                limit_mm_per_prompt={"image": 1},
                logprobs_mode="processed_logprobs",  # after temperature, top-k and top-p
                generation_config="vllm",  # nothing is taken from the model's own sampling defaults
                **self.options,
            )
        return self._llm


def seed_of(key: tuple[object, ...]) -> int:
    """A request's seed, a function of its key alone, in the [0, 2^63) that vLLM takes."""
    return key_seed(key) % 2**64 >> 1


def _room_for(rank: int) -> int:
    if rank > RANKS[-1]:
        raise ValueError(
            f"the stacked adapters have rank {rank}, vLLM takes at most {RANKS[-1]}: set rollout=shared_prefix"
        )
    return next(room for room in RANKS if room >= rank)


def _requests(policy: Policy, batch: Batch) -> list[dict[str, Any]]:
    """A study's prompt as vLLM takes it: the chat template's ids with one placeholder for the image, and the image.

    As ids, because vLLM puts a second <bos> before a text that has one; at the size the policy sees, because vLLM
    knows no model.max_pixels.
    """
    requests = []
    for sample in batch.samples:
        content = [{"type": "image"}, {"type": "text", "text": sample.prompt}]
        text = policy.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        image = policy.resize(load_study(sample.study))
        requests.append({"prompt_token_ids": list(ids), "multi_modal_data": {"image": image}})
    return requests


def _sampling_params(policy: Policy, sampling: Sampling, key: tuple[object, ...]) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=seed_of(key),
        stop_token_ids=list(policy.stop_ids),
        ignore_eos=True,  # the stop ids are all there is to stop at
        logit_bias=dict.fromkeys(policy.banned_ids, BAN),
        logprobs=0,  # of the drawn token alone
        detokenize=False,
    )


def _check_prompt(prompts: EncodedPrompts, study: int, theirs: Sequence[int], study_id: str) -> None:
    """Refuse (RuntimeError) a prompt that vLLM expanded otherwise than the policy's processor did."""
    ours = prompts.input_ids[study][prompts.attention_mask[study].bool()].tolist()
    if ours != list(theirs):
        at = next(i for i, (a, b) in enumerate(zip_longest(ours, theirs)) if a != b)
        raise RuntimeError(
            f"study {study_id}: vLLM read a prompt of {len(theirs)} tokens, the policy one of {len(ours)}; they differ "
            f"from token {at} on. Its version prepares images otherwise: set rollout=shared_prefix"
        )


def _padded(policy: Policy, completions: Sequence[Any]) -> Sampled:
    """vLLM's ragged completions as ``Sampled``; of the whole vocabulary it says nothing."""
    rows = [list(completion.token_ids) for completion in completions]
    steps = [zip(row, completion.logprobs, strict=True) for row, completion in zip(rows, completions, strict=True)]
    drawn = [torch.tensor([step[token].logprob for token, step in row], dtype=torch.float32) for row in steps]
    ids, mask = (part.to(policy.device) for part in pad_right(rows, policy.pad_id))  # [N, T]
    sampled_logp = pad_sequence(drawn, batch_first=True).to(policy.device)  # [N, T]
    finished = torch.tensor([bool(row) and row[-1] in policy.stop_ids for row in rows], device=policy.device)
    return Sampled(ids, mask, None, sampled_logp, finished)
