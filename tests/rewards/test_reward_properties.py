"""What holds of every reward: bounds, and what may not matter in the way an answer is written."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chexreason.labels.catalog import CHEXPERT14
from chexreason.labels.schema import LabelSet
from chexreason.parsing import parse
from chexreason.rewards.balanced import BalancedReward
from chexreason.rewards.base import Reward, Stateful, score
from chexreason.rewards.collapse import CollapseWindow
from chexreason.rewards.format import FormatReward
from chexreason.rewards.hard import HardReward
from chexreason.rewards.macro_f1 import MacroF1Reward
from chexreason.rewards.mix import MixReward
from chexreason.rewards.nuanced import NuancedReward
from chexreason.types import Completion, Study

pytestmark = pytest.mark.slow
LABELS = CHEXPERT14.labels
PREVALENCE = dict.fromkeys(LABELS, 0.1) | {"No Finding": 0.5, "Support Devices": 0.4}
FALSE_POSITIVES = 12 * 14 + 30 + 26  # of all fourteen labels, at 10 + 40 times their prevalence
NUANCED = NuancedReward(PREVALENCE, CollapseWindow())
REWARDS: dict[str, Reward] = {
    "hard": HardReward(),
    "hard_penalise": HardReward(unknown="penalise"),
    "nuanced": NUANCED,
    "format": FormatReward(),
    "macro_f1": MacroF1Reward(PREVALENCE),
    "balanced": BalancedReward(PREVALENCE),
    "mix": MixReward(
        {"hard": HardReward(), "nuanced": NUANCED, "format": FormatReward()}, {"nuanced": 0.01, "format": 0.1}
    ),
}
# lowest and highest total of an answer with n items too much, under each reward
BOUNDS: dict[str, Callable[[int], tuple[float, float]]] = {
    "hard": lambda n: (-0.1, 1),
    "hard_penalise": lambda n: (-0.1, 1),
    "nuanced": lambda n: (-FALSE_POSITIVES - 200 - 100 * n - 0.01, 150),
    "format": lambda n: (1 - min(n, 4), 1),
    "macro_f1": lambda n: (-25, 50),
    "balanced": lambda n: (-50, 50),
    "mix": lambda n: (-0.1 - 0.01 * (FALSE_POSITIVES + 200 + 100 * n) - 0.3, 2.6),
}
some = st.lists(st.sampled_from(LABELS), min_size=1, unique=True)
any_labels = st.lists(st.sampled_from(LABELS), unique=True)
every = pytest.mark.parametrize("name", REWARDS)
quick = settings(max_examples=25, deadline=None)


def paid(name: str, study: Study, *texts: str, n_tokens: int = 300) -> list[float]:
    """The total of each text, every one in a call of its own."""
    reward, found = REWARDS[name], []
    for text in texts:
        row = Completion(study.study_id, text, parse(text, CHEXPERT14), n_tokens)
        found.append(score(copy.deepcopy(reward), [row], [study], CHEXPERT14)[0].item())
    return found


def written(items: list[str]) -> str:
    return f"<think>seen</think><solution>{', '.join(items)}</solution>"


@every
@quick
@given(truth=any_labels, named=any_labels, unknown=st.integers(0, 6), n_tokens=st.integers(0, 900), many=st.booleans())
def test_totals_stay_in_their_bounds(name, study, truth, named, unknown, n_tokens, many):
    """Once for a single answer, and once after a hundred like it, when a window is full."""
    text = written([*named, *(f"Cat {i}" for i in range(unknown))])
    row = Completion("s1", text, parse(text, CHEXPERT14), n_tokens)
    rows = [row] * (120 if many else 1)
    low, high = BOUNDS[name](unknown)
    totals = score(copy.deepcopy(REWARDS[name]), rows, [study(*truth)] * len(rows), CHEXPERT14)[0]
    if row.parsed.valid:
        assert low - 1e-4 <= totals.min()
        assert totals.max() <= high + 1e-4


@every
@quick
@given(truth=any_labels, named=some, data=st.data())
def test_order_and_case_do_not_matter(name, study, truth, named, data):
    shuffled = data.draw(st.permutations(named))
    written_so = [data.draw(st.sampled_from([str.upper, str.lower, str.title]))(label) for label in shuffled]
    straight, other = paid(name, study(*truth), written(named), written(written_so))
    assert straight == other


DUPLICATE = {"nuanced": 25, "format": 1, "mix": 0.35}
UNKNOWN = {"nuanced": 100, "format": 1}


@every
@quick
@given(truth=any_labels, named=some, times=st.integers(1, 4))
def test_a_duplicate_or_an_unknown_label_never_pays(name, study, truth, named, times):
    once, again, unknown = paid(name, study(*truth), *(written([*named, *x * times]) for x in ([], named[:1], ["Cat"])))
    assert again <= once
    assert unknown <= once
    assert once - again == pytest.approx(times * DUPLICATE.get(name, 0), abs=1e-4)
    if name in UNKNOWN:
        assert once - unknown == pytest.approx(times * UNKNOWN[name], abs=1e-4)


@every
def test_both_empty_agree_whatever_else_is_paid(name, study):
    """Nothing true, and an unknown label alone: predicts nothing, and matches."""
    nothing, wrong = paid(name, study(), written(["Cat"]), written(["Edema", "Cat"]))
    at = {"hard": 1.0, "hard_penalise": 0.0, "nuanced": 50.0, "format": 0.0, "mix": 1 + 0.5 + 0.0}.get(name, 0.0)
    assert nothing == pytest.approx(at)
    assert nothing >= wrong


@every
@quick
@given(truth=some)
def test_all_fourteen_and_a_constant_no_finding_never_beat_the_truth(name, study, truth):
    right, every_label, normal = paid(name, study(*truth), *(written(x) for x in (truth, LABELS, ["No Finding"])))
    assert right >= max(every_label, normal)
    if name != "format":
        assert (every_label == right) == (len(truth) == 14)
        assert (normal == right) == (truth == ["No Finding"])


@every
@quick
@given(truth=some, named=some)
def test_length_matters_between_249_and_250_tokens_only(name, study, truth, named):
    text = written(named)
    by_length = {n: paid(name, study(*truth), text, n_tokens=n)[0] for n in (0, 249, 250, 900)}
    assert by_length[0] == by_length[249]
    assert by_length[250] == by_length[900]
    step = 0.1 if name in ("hard", "hard_penalise", "mix") else 0
    assert by_length[250] - by_length[249] == pytest.approx(step, abs=1e-5)


@every
@pytest.mark.parametrize("text", ["", "Edema", "<think></think><solution></solution>", "<solution>Edema", "\x00" * 99])
def test_an_output_that_is_not_valid_earns_what_is_set_for_it(name, study, text):
    (total,) = paid(name, study("Edema"), text)
    assert total == {"nuanced": -100.0, "mix": -1.0, "macro_f1": -1.0, "balanced": -1.0}.get(name, 0.0)


@every
@quick
@given(truth=any_labels, named=any_labels, unlabelled=any_labels, other=any_labels)
def test_unlabelled_classes_do_not_matter(name, study, answer, truth, named, unlabelled, other):
    masked, hidden = study(*truth, unlabelled=tuple(unlabelled)), set(unlabelled)
    rows = [answer(*named), answer(*((set(named) - hidden) | (set(other) & hidden)))]
    one, changed = (score(copy.deepcopy(REWARDS[name]), [row], [masked], CHEXPERT14)[0].item() for row in rows)
    assert one == changed


@every
@quick
@given(truth=any_labels, named=any_labels, order=st.permutations(LABELS))
def test_the_order_of_the_label_set_does_not_matter(name, study, answer, truth, named, order):
    one, shuffled = study(*truth), LabelSet("shuffled", tuple(order))
    other = replace(one, target=shuffled.encode(truth))
    pairs = ((one, CHEXPERT14), (other, shuffled))
    straight, again = (score(copy.deepcopy(REWARDS[name]), [answer(*named)], [s], labels)[0] for s, labels in pairs)
    assert straight.item() == again.item()


@every
@quick
@given(rows=st.lists(st.tuples(any_labels, any_labels, st.integers(0, 2)), min_size=1, max_size=6), data=st.data())
def test_the_order_of_rows_does_not_matter(name, study, answer, rows, data):
    studies = [study(*truth) for truth, _, _ in rows]
    answers = [answer(*named, unknown=("x",) * n) for _, named, n in rows]
    total = score(copy.deepcopy(REWARDS[name]), answers, studies, CHEXPERT14)[0].tolist()
    order = data.draw(st.permutations(range(len(rows))))
    pairs = [answers[i] for i in order], [studies[i] for i in order]
    assert score(copy.deepcopy(REWARDS[name]), *pairs, CHEXPERT14)[0].tolist() == [total[i] for i in order]
    if name in ("hard", "nuanced"):  # the best answer is the true one, and no other
        best = {"hard": 1, "nuanced": 150}[name]
        flawless = [set(truth) == set(named) and (n == 0 or name == "hard") for truth, named, n in rows]
        assert [value == best for value in total] == flawless


@every
def test_memory_goes_through_a_checkpoint(name, study, answer):
    rows, studies = [answer("Edema")] * 70, [study("Edema")] * 70  # the limit of a window, which the next call passes
    straight, resumed = copy.deepcopy(REWARDS[name]), copy.deepcopy(REWARDS[name])
    first = score(straight, rows, studies, CHEXPERT14)[0].tolist()
    assert isinstance(straight, Stateful) == (name in ("nuanced", "mix", "macro_f1"))
    if isinstance(straight, Stateful):
        resumed.load_state_dict(json.loads(json.dumps(straight.state_dict())))
    expected, got = (score(reward, rows, studies, CHEXPERT14)[0].tolist() for reward in (straight, resumed))
    assert got == expected
    assert (expected != first) == isinstance(straight, Stateful)
