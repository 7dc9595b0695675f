"""The named objectives: every part spelled out, told apart by what their sources say, and docs/OBJECTIVES.md true."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch

from chexreason.grpo.objective import ObjectiveSpec, group_advantages
from tests.support.presets import NAMES, parts_of, preset

ROOT = Path(__file__).parents[2]
PRESETS = {name: preset(name) for name in NAMES}
PARTS = [field.name for field in fields(ObjectiveSpec) if field.name != "name"]


def differences(a: str, b: str) -> dict[str, tuple[Any, Any]]:
    left, right = asdict(PRESETS[a]), asdict(PRESETS[b])
    return {part: (left[part], right[part]) for part in PARTS if left[part] != right[part]}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_spells_out_every_part(name: str) -> None:
    """A part left to a default of the code would be one that nobody chose."""
    assert sorted(parts_of(name)) == sorted(["_target_", "name", *PARTS])
    assert parts_of(name)["name"] == name


def test_what_each_source_means_by_dr_grpo() -> None:
    assert differences("dr_grpo", "dr_grpo_trl") == {
        "scale": ("none", "std"),
        "std_epsilon": (0.0, 1e-4),
        "kl_ratio_factor": (False, True),
    }
    assert differences("dr_grpo", "dr_grpo_verl") == {"dual_clip": (None, 3.0)}
    assert differences("dr_grpo", "dr_grpo_ms_swift") == {
        "scale": ("none", "std"),
        "std_epsilon": (0.0, 1e-4),
        "kl_beta": (0.0, 0.04),
    }


def test_how_the_papers_differ() -> None:
    assert differences("grpo", "gspo") == {
        "clip_low": (0.2, 3e-4),
        "clip_high": (0.2, 4e-4),
        "kl_beta": (0.04, 0.0),
        "ratio_level": ("token", "sequence"),
        "updates_per_rollout": (1, 2),
    }
    assert differences("grpo", "dapo") == {
        "normaliser": ("sequence_mean", "token_mean"),
        "clip_high": (0.2, 0.28),
        "kl_beta": (0.04, 0.0),
        "updates_per_rollout": (1, 2),
        "zero_variance": ("keep", "mask"),
    }
    assert differences("dr_grpo", "paper") == {
        "clip_low": (0.2, 0.15),
        "clip_high": (0.2, 0.22),
        "kl_beta": (0.0, 0.15),
        "updates_per_rollout": (1, 2),
    }


def test_no_two_presets_are_the_same() -> None:
    assert not [(a, b) for a in PRESETS for b in PRESETS if a < b and not differences(a, b)]


def test_the_page_prints_every_part_of_every_preset() -> None:
    lines = (ROOT / "docs" / "OBJECTIVES.md").read_text().splitlines()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    (header,) = [row for row in rows if row[0] == "part"]
    printed = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows if row[0] in PARTS}
    assert sorted(header[1:]) == sorted(PRESETS)
    expected = {part: {name: shown(getattr(spec, part)) for name, spec in PRESETS.items()} for part in PARTS}
    assert printed == expected


def shown(value: Any) -> str:
    """A value as the page prints it: 0.0003 as 0.0003, None and False as YAML has them."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_what_dividing_by_the_standard_deviation_does() -> None:
    """The example of docs/OBJECTIVES.md."""
    rewards = torch.tensor([[0.3, 0.3, 0.4, 0.4]])
    assert group_advantages(rewards, scale="none")[0, 3].item() == pytest.approx(0.05, rel=1e-5)
    assert group_advantages(rewards, scale="std")[0, 3].item() == pytest.approx(0.866, abs=5e-4)


def test_the_epsilon_of_the_standard_deviation_by_hand() -> None:
    """Rewards (0, 2), deviation sqrt 2: advantages -+ 1 / (sqrt 2 + 1/2); a group without variance stays at zero."""
    rewards = torch.tensor([[0.0, 2.0], [3.0, 3.0]], dtype=torch.float64)
    got = group_advantages(rewards, scale="std", epsilon=0.5)
    torch.testing.assert_close(got[0, 1], torch.tensor(1 / (2**0.5 + 0.5), dtype=torch.float64))
    assert got[1].tolist() == [0.0, 0.0]
    assert torch.equal(group_advantages(rewards, scale="none", epsilon=0.5), group_advantages(rewards, scale="none")), (
        "nothing is divided"
    )
