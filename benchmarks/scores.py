"""Label scores on one token tree a study, beside the plain computation: every alternative a whole answer.

    make bench-scores

Prints a table and writes ``out/bench/scores.json``. Both sides run in one process in turns on one thread, and the
figures are medians; the image features are at hand, as they are after an evaluation, and ours takes the studies in the
order in which the command does. MedGemma's FLOPs are counted from the shapes of its config, not run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import models
from benchmarks.grpo_work import PROMPT_TOKENS, counted
from benchmarks.measure import Row, in_turns, report, row, seconds
from chexreason.build.model import quiet
from chexreason.confdir import confdir
from chexreason.data.batches import EncodedPrompts
from chexreason.labels.catalog import CHEXPERT14
from chexreason.model.label_scores import NO_FINDING, label_log_odds, label_pairs
from chexreason.model.load import load_policy
from chexreason.model.logprobs import completion_scores
from chexreason.model.policy import Policy
from chexreason.parsing import AnswerFormat, Grammar, format_answer
from chexreason.preflight.meta_model import blank_policy
from chexreason.prompts import load_prompt, render
from chexreason.types import Parsed

STUDIES, BATCH, ROUNDS, BAR = 16, 8, 3, 0.25
FORMAT = AnswerFormat(CHEXPERT14, Grammar.THINK_SOLUTION)
SENTENCES = (  # of an SFT arm of `make demo`
    "I read this frontal PA chest image from the center outward.",
    "A support device is in place.",
    "There is hazy opacity at both lung bases, moderate in degree.",
    "No evidence of pleural thickening or pneumothorax.",
    "In summary, the heart is enlarged and the lungs are not clear.",
)
# Of MedGemma-4B: an answer of 370 tokens, of which the last 20 are the list of one of 16 alternatives.
ANSWER, LIST, ALTERNATIVES, IMAGE_TOKENS = 370, 20, 16, 256


def answers(sentences: int) -> list[Parsed]:
    """Answers that reason in about so many sentences and name one to five labels, as those of the demo do."""
    rng = np.random.default_rng(0)
    findings = [label for label in CHEXPERT14 if label != NO_FINDING]
    found = []
    for _ in range(STUDIES):
        n, chosen = int(rng.integers(max(sentences - 1, 1), sentences + 2)), rng.integers(6)
        labels = tuple(rng.choice(findings, chosen, replace=False).tolist()) or (NO_FINDING,)
        found.append(Parsed(labels, think=" ".join(SENTENCES[i % len(SENTENCES)] for i in range(n))))
    return found


def plain(policy: Policy, prompts: EncodedPrompts, given: Sequence[Parsed]) -> Tensor:
    """The log-odds [B, L] as they were computed before: each alternative passes through the model as a whole."""
    pairs = [label_pairs(answer.labels, CHEXPERT14) for answer in given]
    sets = [list(dict.fromkeys(s for present, absent in both for s in (present, *absent))) for both in pairs]
    width = max(map(len, sets))
    texts = [
        format_answer(answer.think, labels)
        for answer, listed in zip(given, sets, strict=True)
        for labels in [*listed, *listed[:1] * (width - len(listed))]
    ]
    with torch.no_grad():
        logp = completion_scores(policy, prompts, *policy.encode_answers(texts), group_size=width).logp
    totals = logp.double().sum(1).reshape(len(given), width).tolist()
    known = [dict(zip(listed, scores, strict=False)) for listed, scores in zip(sets, totals, strict=True)]
    return torch.tensor(
        [[k[p] - max(k[s] for s in absent) for p, absent in both] for k, both in zip(known, pairs, strict=True)]
    )


def measured(case: str, sentences: int) -> Iterator[Row]:
    """CPU seconds and FLOPs of both sides on the packaged Gemma 3, and their largest difference."""
    policy, given = load_policy("tiny:tiny_gemma3", dtype="float32").eval(), answers(sentences)
    text = render(load_prompt("free_reasoning", Path(confdir()) / "prompt"), CHEXPERT14)
    prompts = policy.with_features(policy.encode(models.images(160, STUDIES), [text] * STUDIES))
    alike = sorted(range(STUDIES), key=lambda i: (len(given[i].labels), len(given[i].think)))

    def scored(score: Callable[..., Tensor], order: Sequence[int]) -> Tensor:
        odds = torch.zeros(STUDIES, len(CHEXPERT14))
        for i in range(0, STUDIES, BATCH):
            rows = order[i : i + BATCH]
            odds[list(rows)] = score(policy, prompts.select(rows), [given[k] for k in rows]).float()
        return odds

    sides = {
        "ours": partial(scored, lambda *batch: label_log_odds(*batch, FORMAT), alike),
        "plain": partial(scored, plain, range(STUDIES)),
    }
    gap = float((sides["ours"]() - sides["plain"]()).abs().max())  # and they are warm
    spent = in_turns({n: partial(seconds, side, time.process_time) for n, side in sides.items()}, ROUNDS)
    ours, peer = (statistics.median(spent[name]) / STUDIES for name in sides)
    yield row(case, "CPU s/study", ours, peer, ours / peer, BAR)
    ours, peer = (counted(side) / STUDIES / 1e9 for side in sides.values())
    yield row(case, "GFLOP/study", ours, peer, ours / peer, BAR)
    yield row(f"{case}: largest difference", "log-odds", gap)


def medgemma() -> Row:
    """TFLOPs of a study on MedGemma-4B, image tower included on both sides."""
    policy = blank_policy("google/medgemma-4b-it", dtype="bfloat16")
    text, linear = policy.base.config.get_text_config(), torch.nn.Linear
    weights = {name: m.weight.numel() for name, m in policy.base.named_modules() if isinstance(m, linear)}
    body = sum(n for name, n in weights.items() if "language_model" in name)
    tower = sum(n for name, n in weights.items() if "vision" in name)
    patches = (policy.base.config.vision_config.image_size // policy.base.config.vision_config.patch_size) ** 2
    pair, head = (
        4 * text.num_attention_heads * text.head_dim * text.num_hidden_layers,
        text.hidden_size * text.vocab_size,
    )

    def total(behind: int, pairs: int, scored: int) -> float:
        """With ``behind`` tokens after the prompt, so many pairs in attention beside its own, so many scored."""
        own = 2 * tower * patches + 2 * body * PROMPT_TOKENS + pair * PROMPT_TOKENS**2
        return (own + 2 * body * behind + pair * pairs + 2 * head * scored) / 1e12

    tree = ANSWER - LIST + ALTERNATIVES * (LIST - 1)  # lists that begin alike would share these tokens too
    ours = total(tree, tree * (PROMPT_TOKENS + tree), ALTERNATIVES * LIST)
    rows = ALTERNATIVES * (ANSWER - 1)
    peer = total(rows, rows * (PROMPT_TOKENS + ANSWER - 1), ALTERNATIVES * ANSWER)
    return row(f"MedGemma-4B, {PROMPT_TOKENS} + {ANSWER} tokens", "TFLOP/study", ours, peer, ours / peer, BAR)


def main() -> None:
    """Measure, print, write."""
    quiet()
    torch.set_num_threads(1)
    cases = {"tiny Gemma 3, answers as of the demo": 4, "tiny Gemma 3, long answers": 20}
    report("scores", [*(line for case, n in cases.items() for line in measured(case, n)), medgemma()])


if __name__ == "__main__":
    main()
