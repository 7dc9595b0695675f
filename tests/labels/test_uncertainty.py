"""Raw marks to targets and masks: every policy, and the promise that inputs stay as they are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chexreason.labels.uncertainty import (
    BLANK,
    IGNORE,
    LABEL_POLICIES,
    ONES,
    POSITIVES_ONLY,
    UNCERTAIN,
    ZEROS,
    LabelPolicy,
    label_policy,
    resolve,
)

NAN = float("nan")
RAW = np.array([[1.0, 0.0, -1.0, NAN]])
ALL = np.ones(4, dtype=bool)


@pytest.mark.parametrize(
    ("policy", "target", "mask"),
    [
        (POSITIVES_ONLY, [1, 0, 0, 0], [True, True, True, True]),
        (ZEROS, [1, 0, 0, 0], [True, True, True, False]),
        (ONES, [1, 0, 1, 0], [True, True, True, False]),
        (IGNORE, [1, 0, 0, 0], [True, True, False, False]),
        (LabelPolicy("u_ones_of_a_report", "positive", "negative"), [1, 0, 1, 0], [True, True, True, True]),
        (LabelPolicy("u_ignore_of_a_report", "masked", "negative"), [1, 0, 0, 0], [True, True, False, True]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_each_policy_on_each_mark(policy, target, mask):
    got_target, got_mask = resolve(RAW, policy, ALL)
    assert got_target.tolist() == [target]
    assert got_mask.tolist() == [mask]


@settings(max_examples=40, deadline=None)
@given(
    raw=arrays(np.float64, (5, 4), elements=st.sampled_from([1.0, 0.0, -1.0, NAN])),
    labelled=arrays(np.bool_, 4),
    policy=st.sampled_from(list(LABEL_POLICIES.values())),
)
def test_resolve_is_pure_and_never_sets_a_masked_target(raw, labelled, policy):
    labelled_before = labelled.copy()
    raw.flags.writeable = labelled.flags.writeable = False  # a write, through a view too, raises
    target, mask = resolve(raw, policy, labelled)
    assert not target[~mask].any()
    assert not mask[:, ~labelled].any()  # a class the source never labels is masked by every policy
    assert mask[((raw == 1) | (raw == 0)) & labelled].all()
    assert (target[(raw == 1) & labelled] == 1).all()
    mask[:] = False  # the caller owns the result
    target[:] = 7
    np.testing.assert_array_equal(labelled, labelled_before)


def test_unusable_input_is_refused():
    with pytest.raises(ValueError, match=r"raw labels must be 1, 0, -1 or NaN; got \[0\.5\]"):
        resolve(np.array([[0.5]]), ZEROS, np.ones(1, dtype=bool))
    with pytest.raises(ValueError, match=r"\[N, L\]"):
        resolve(np.zeros((2, 3)), ZEROS, np.ones(2, dtype=bool))
    with pytest.raises(ValueError, match="blank='positive'"):
        LabelPolicy("wrong", "masked", "positive")
    with pytest.raises(KeyError, match="known: positives_only, zeros, ones, ignore"):
        label_policy("u-ones")


def test_presets_are_found_by_name_and_others_are_spelled_out():
    assert label_policy("ignore") is IGNORE
    assert IGNORE.declared == "ignore: uncertain=masked, blank=masked"
    for uncertain, blank in product(UNCERTAIN, BLANK):
        policy = label_policy({"name": "mine", "uncertain": uncertain, "blank": blank})
        assert policy.declared == f"mine: uncertain={uncertain}, blank={blank}"
    assert label_policy({"name": "ones", "uncertain": "positive", "blank": "masked"}) == ONES


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "mine", "uncertain": "masked"}, "a preset .positives_only, zeros, ones, ignore. or a mapping"),
        ({"name": "mine", "uncertain": "masked", "blank": "masked", "x": "y"}, "must be a preset"),
        ({"name": "mine", "uncertain": 1, "blank": "masked"}, "must be a preset"),
        (None, "label policy None must be a preset"),
        ({"name": "mine", "uncertain": "maybe", "blank": "masked"}, "choose one of: positive, negative, masked"),
        ({"name": "ones", "uncertain": "masked", "blank": "masked"}, "takes a preset's name, which means 'ones: unc"),
        ({"name": "<b>", "uncertain": "masked", "blank": "masked"}, "name '<b>': use letters"),
    ],
)
def test_a_policy_that_says_nothing_clear_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        label_policy(spec)
