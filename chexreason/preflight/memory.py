"""The memory a run will need: its stages rehearsed without numbers, and the largest batch of each that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from chexreason.data.batches import EncodedPrompts
from chexreason.model.adapters import unchanging
from chexreason.model.generate import Sampling, draw_ids, sample, sampling_mode
from chexreason.model.kv import next_logits, prefill
from chexreason.model.load import KEPT
from chexreason.model.logprobs import completion_scores
from chexreason.model.policy import Policy
from chexreason.owners import peak_rss
from chexreason.preflight.meta_model import blank_prompts
from chexreason.preflight.rehearsal import MEMORY_KINDS, Rehearsal

GIB = 2**30
NF4_BITS = 4.127  # a weight: 4 bits, an 8-bit scale a block of 64, a fp32 scale of 256 scales
# What AdamW keeps of a trainable parameter: two fp32 numbers; in 8 bits two bytes, and two fp32 maxima a block of 256.
STATE_BYTES, STATE_BYTES_8BIT = 8.0, 2.03
_REHEARSED = 64  # studies at most: masks are real numbers
Bytes = dict[str, int]


@dataclass(frozen=True)
class Stage:
    """One stage of a run: how many studies share it (by the setting named), and its peak in bytes by kind.

    ``largest`` is the largest value of that setting that fits, 0 where not even one study does.
    """

    name: str
    setting: str
    studies: int
    bytes: Mapping[str, int]
    largest: int

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


@dataclass(frozen=True)
class MemoryPlan:
    """A run's stages on a device that gives it ``capacity`` bytes (its memory less the reserve and vLLM's share)."""

    device: str
    capacity: int
    stages: tuple[Stage, ...]

    def over(self) -> list[Stage]:
        """The stages that do not fit."""
        return [stage for stage in self.stages if stage.total > self.capacity]

    def shortage(self) -> str:
        """A line for each stage that does not fit: what it needs, and of what."""
        said = f"the run does not fit {self.device}:"
        for stage in self.over():
            said += f"\n  {stage.name} needs {stage.total / GIB:.2f} of {self.capacity / GIB:.2f} GiB with "
            said += f"{stage.setting}={stage.studies}"
        return said

    def table(self) -> str:
        """The plan as text: a row a stage, a column a kind, in GiB (in MiB where all of it is small)."""
        small = max(stage.total for stage in self.stages) < GIB
        unit, name = (2**20, "MiB") if small else (GIB, "GiB")
        rows = [f"{name:<12}{_cells([*MEMORY_KINDS, 'total'])}  setting (largest that fits)"]
        for stage in self.stages:
            sizes = [*(stage.bytes[kind] for kind in MEMORY_KINDS), stage.total]
            cells = _cells(f"{size / unit:.2f}" for size in sizes)
            rows.append(f"{stage.name:<12}{cells}  {stage.setting}={stage.studies} ({stage.largest})")
        return "\n".join([*rows, f"{self.device}: {self.capacity / unit:.2f} {name} to use"])


def _cells(values: Iterable[str]) -> str:
    return "".join(f"{value:>12}" for value in values)


@dataclass(frozen=True)
class WorstBatch:
    """The largest work a run asks of each of its stages ("rollout", "update", "validation"), by plain numbers.

    ``text``, ``image`` and ``answer`` are tokens; ``stages`` holds, by stage, the setting that says how many studies
    share it, and that number; ``held`` studies at least are on the device during an update (in GRPO the whole rollout);
    ``sampling`` holds how the other stages draw; ``shared`` says that an update shares prompts.
    """

    text: int
    image: int
    answer: int
    group_size: int
    held: int
    shared: bool
    stages: Mapping[str, tuple[str, int]]
    sampling: Mapping[str, Sampling]

    def prompts(self, policy: Policy, name: str, studies: int) -> EncodedPrompts:
        """The prompts on the device while ``studies`` share a stage."""
        n = max(studies, self.held) if name == "update" else studies
        return blank_prompts(policy, n, text_tokens=self.text, n_image_tokens=self.image)

    def update(self, policy: Policy, prompts: EncodedPrompts, studies: int) -> None:
        """Forward and backward of the first ``studies`` prompts and their completions, every answer of full length.

        The images of all prompts are encoded before, as a rollout or an SFT batch does it.
        """
        prompts = policy.with_features(prompts)
        ids = torch.full((studies * self.group_size, self.answer), 3, device=prompts.input_ids.device)
        part, mask = prompts.select(range(studies)), torch.ones_like(ids)
        scores = completion_scores(policy, part, ids, mask, group_size=self.group_size, shared=self.shared)
        (-scores.logp.sum()).backward()

    def group(self, name: str) -> int:
        """Completions of a study in a stage that samples."""
        return self.group_size if name == "rollout" else 1


def plan_stages(
    policy: Policy, worst: WorstBatch, *, capacity: int, state_bytes: float, quantised: bool
) -> tuple[Stage, ...]:
    """Every stage of a run rehearsed on a policy without weights; ``state_bytes`` as ``rehearse`` takes them."""

    def peak(name: str, studies: int) -> Bytes:
        def work(book: Rehearsal) -> None:
            prompts = worst.prompts(policy, name, studies)
            if name == "update":
                worst.update(policy, prompts, studies)
            else:
                last_token(policy, prompts, worst.sampling[name], worst.group(name), book)

        found = rehearse(policy, work, state_bytes)
        return in_four_bits(policy, found) if quantised else found

    stages = []
    for name, (setting, studies) in worst.stages.items():
        peaks = cache(partial(peak, name))
        most = largest_of(lambda n, of=peaks: sum(of(n).values()), studies, capacity)  # type: ignore[misc]
        stages.append(Stage(name, setting, studies, peaks(studies), most))
    return tuple(stages)


def measure_stages(policy: Policy, worst: WorstBatch) -> dict[str, int]:
    """Peak bytes of each stage of a run, done for real on the policy's device (an adapter attached)."""
    peaks = {}
    for name, (setting, studies) in worst.stages.items():
        prompts = worst.prompts(policy, name, studies)
        work: Callable[[], object] = partial(worst.update, policy, prompts, studies)
        if name != "update":
            group = worst.group(name)
            keys = [(k,) for k in range(studies * group)]
            work = partial(sample, policy, prompts, worst.sampling[name], group_size=group, keys=keys)
        with endless(policy):
            peaks[name] = peak_on(policy.device, work, f"{setting}={studies}")
        policy.zero_grad()
    return peaks


def last_token(policy: Policy, prompts: EncodedPrompts, sampling: Sampling, group_size: int, book: Rehearsal) -> None:
    """Sampling at its largest: the prompt runs, room is made for whole completions, and their last token is drawn."""
    with ExitStack() as stack:
        stack.enter_context(sampling_mode(policy))
        with book.kind("weights"):  # that the adapters are added to, where they are float32
            stack.enter_context(unchanging(policy))
        prefix = prefill(policy, policy.with_features(prompts), group_size)
        with book.kind("cache"):
            prefix.make_room(sampling.max_new_tokens)
        n, filled = prefix.mask.shape[0], sampling.max_new_tokens - 1
        for layer in prefix.cache.layers:
            shape = (n, layer.keys.shape[1], filled, layer.keys.shape[-1])
            states = layer.keys.new_empty(shape)
            layer.update(states, states)
        prefix.next_position = prefix.next_position + filled
        logits = next_logits(policy, prefix, torch.full((n,), policy.pad_id), prefix.visible(filled + 1))
        logp = (logits.float() / (sampling.temperature or 1.0)).log_softmax(-1)
        allowed = logp.index_fill(-1, torch.tensor(policy.banned_ids), float("-inf"))
        draw_ids(allowed, torch.zeros(n, dtype=torch.float64, device=logp.device), sampling)


def rehearse(policy: Policy, stage: Callable[[Rehearsal], None], optimiser_bytes: float) -> Bytes:
    """Peak bytes by kind of ``stage`` on a policy without weights, with gradients and optimiser state at hand.

    ``optimiser_bytes`` is the state of one trainable parameter.
    """
    parameters = dict(policy.model.named_parameters())
    adapters = {name: p for name, p in parameters.items() if "lora_" in name}
    trainable = [p for p in adapters.values() if p.requires_grad]
    for parameter in trainable:
        parameter.grad = torch.empty_like(parameter)  # of the micro-batch before
    state = torch.empty(int(optimiser_bytes * sum(p.numel() for p in trainable)), dtype=torch.uint8, device="meta")
    resident = {
        "weights": [*(p for name, p in parameters.items() if name not in adapters), *policy.model.buffers()],
        "adapters": list(adapters.values()),
        "gradients": [p.grad for p in trainable if p.grad is not None],
        "optimiser": [state],
    }
    try:
        with Rehearsal(resident, policy.base.config.get_text_config().vocab_size) as book:
            stage(book)
        return book.peak
    finally:
        for parameter in trainable:
            parameter.grad = None


def in_four_bits(policy: Policy, peak: Bytes) -> Bytes:
    """``peak`` of a rehearsal, for a base in NF4: smaller weights, one of them unpacked at a time, and no copy of any.

    In float32 sampling adds the adapters to a copy of the weights; in 4 bits it prepares their factors alone.
    """
    own = [p for name, p in policy.model.named_parameters() if "lora_" not in name]
    resident = sum(w.numel() * w.element_size() for w in (*own, *policy.model.buffers()))
    prepared = min(peak["weights"] - resident, peak["adapters"])
    layers = {name: m for name, m in policy.base.named_modules() if isinstance(m, nn.Linear)}
    frozen = [m.weight for name, m in layers.items() if not name.startswith(KEPT) and "lora_" not in name]
    full = sum(w.numel() * w.element_size() for w in frozen)
    packed = int(sum(w.numel() for w in frozen) * NF4_BITS / 8)
    unpacked = max(w.numel() for w in frozen) * 2
    return peak | {"weights": resident - full + packed + prepared, "activations": peak["activations"] + unpacked}


def largest_of(total: Callable[[int], int], studies: int, capacity: int) -> int:
    """The largest batch whose ``total`` bytes are within ``capacity``: it fits, and one study more does not.

    Straight lines say what to rehearse next; above ``_REHEARSED`` studies, the line is the answer.

    >>> largest_of(lambda n: 100 + 10 * n, 4, 155)
    5
    """
    known = {1: total(1)}
    if known[1] > capacity:
        return 0
    guess = max(studies, 2)
    while guess not in known:
        known[guess] = total(guess)
        low = max(n for n in known if known[n] <= capacity)
        high = min((n for n in known if known[n] > capacity), default=None)
        left, right = (low, high) if high else sorted(known)[-2:]
        slope = max((known[right] - known[left]) / (right - left), 1.0)
        guess = max(int(left + (capacity - known[left]) // slope), low + 1)
        if high:
            guess = min(guess, high - 1)  # which is known where nothing lies between
        elif guess > _REHEARSED and max(known) >= _REHEARSED:
            return guess
        else:
            guess = min(guess, max(_REHEARSED, low + 1))
    return low


@contextmanager
def endless(policy: Policy) -> Iterator[None]:
    """No token ends an answer while the block runs: every completion takes its whole length."""
    stop, policy.stop_ids = policy.stop_ids, []
    try:
        yield
    finally:
        policy.stop_ids = stop


def peak_on(device: torch.device, work: Callable[[], object], setting: str) -> int:
    """Peak bytes of ``work``: the allocator's on a GPU, the process's largest resident size (libraries included) else.

    Linux begins that size anew where it is asked to; elsewhere it is the largest of all that the process has done.

    Raises ValueError naming the ``setting`` (``name=value``) to lower where the device runs out of memory.
    """
    if device.type != "cuda":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        work()
        return peak_rss()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        work()
    except torch.cuda.OutOfMemoryError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the worst batch does not fit {device} with {setting}: lower it ({reason})") from None
    return int(torch.cuda.max_memory_allocated(device))
