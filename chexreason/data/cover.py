"""The exact part of the sampler: the samples with the least total shortfall to their label goals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
_Rows = dict[int, list[int]]  # of one patient: the rows of each label pattern
Profile = tuple[tuple[int, int], ...]  # of like patients: (pattern, number of rows), a pattern once
EXACT_ROWS = 5_000  # of a larger pool, only the rows that matter are looked at
_LIMITS = {"node_limit": 1000, "time_limit": 20.0}  # seconds; small pools take milliseconds


def least_shortfall(
    marks: Bools, owner: Ints, sizes: Sequence[int], goal: Ints, greedy: Ints | None
) -> tuple[Ints | None, bool]:
    """The draw [M] that lacks the fewest positives to ``goal`` [S, L] in total, and whether that is proved.

    ``marks`` is [M, L], ``owner`` [M] the patient of each row: none may be in two samples. Of equal draws, the one
    with the fewest positives beyond the goals, unless ``greedy`` is as good. An integer programme (HiGHS through SciPy)
    over groups of patients whose rows are alike. Of a pool of more than ``EXACT_ROWS`` rows it looks at the patients
    that ``greedy`` drew or that have a label it is short of; then nothing is proved, unless nothing is lacking. Where
    the programme meets its limits, ``greedy`` is returned: a draw must not depend on how busy the machine is. None
    when no draw fills the samples, or none was found in time.
    """
    near = _near(marks, owner, goal, greedy)
    found, proved = _solve(marks[near], owner[near], sizes, goal)
    if found is None or (greedy is not None and not proved):
        return greedy, proved and bool(near.all())
    drawn = np.full(len(marks), -1, dtype=np.int64)
    drawn[near] = found
    if greedy is not None and _lacking(marks, greedy, goal).sum() <= _lacking(marks, drawn, goal).sum():
        drawn = greedy
    return drawn, proved and bool(near.all() or not _lacking(marks, drawn, goal).any())


def positives_by_sample(marks: Bools, drawn: Ints, n_samples: int) -> Ints:
    """Positives [S, L] of each sample; ``drawn`` [M] is the sample of each row of ``marks`` [M, L]."""
    return np.array([marks[drawn == s].sum(axis=0) for s in range(n_samples)], dtype=np.int64)


def _near(marks: Bools, owner: Ints, goal: Ints, greedy: Ints | None) -> Bools:
    """Which rows [M] the programme sees: all of a small pool; of a large one, those that ``least_shortfall`` names."""
    if greedy is None or len(marks) <= EXACT_ROWS:
        return np.ones(len(marks), dtype=bool)
    short = _lacking(marks, greedy, goal).any(axis=0)  # [L]
    carriers = np.unique(owner[marks[:, short].any(axis=1)])[:EXACT_ROWS]
    return np.isin(owner, np.union1d(owner[greedy >= 0], carriers))


def _solve(marks: Bools, owner: Ints, sizes: Sequence[int], goal: Ints) -> tuple[Ints | None, bool]:
    """The programme's draw, None when there is none or none in time, and whether it proved its answer."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # rarely needed, slow to import

    patterns, of_row = np.unique(marks, axis=0, return_inverse=True)
    groups = _groups(of_row.reshape(-1), owner)
    matrix, low, high = _constraints(patterns, list(groups), [len(group) for group in groups.values()], sizes, goal)
    n_draw = matrix.shape[1] - 2 * goal.size
    excess = 0.5 / (goal.size * sum(sizes) + 1)  # all of it together costs less than one missing positive
    result = milp(
        np.repeat([0.0, 1.0, excess], [n_draw, goal.size, goal.size]),
        constraints=LinearConstraint(matrix, low, high),
        integrality=np.ones(matrix.shape[1]),
        bounds=Bounds(0, np.inf),
        options={**_LIMITS, "mip_rel_gap": 1e-5},
    )
    proved = result.status in (0, 2)  # solved, or shown to have no solution
    if result.x is None:
        return None, proved
    return _draw(np.rint(result.x).astype(np.int64), groups, len(sizes), len(marks)), proved


def _groups(of_row: Ints, owner: Ints) -> dict[Profile, list[_Rows]]:
    """Patients with equally many rows of every pattern can stand for one another."""
    patients: dict[int, _Rows] = defaultdict(lambda: defaultdict(list))
    for row, (patient, pattern) in enumerate(zip(owner.tolist(), of_row.tolist(), strict=True)):
        patients[patient][pattern].append(row)
    groups: dict[Profile, list[_Rows]] = defaultdict(list)
    for rows in patients.values():
        groups[tuple(sorted((pattern, len(found)) for pattern, found in rows.items()))].append(rows)
    return groups


def _constraints(
    patterns: Bools, profiles: Sequence[Profile], n_patients: Sequence[int], sizes: Sequence[int], goal: Ints
) -> tuple[Any, Ints, Ints]:
    """_Rows [R, V] of the programme with their bounds [R].

    Variables, sample by sample within each kind: rows taken of a profile's pattern (cells), patients taken of a
    profile, positives missing to a goal, positives beyond it.
    """
    from scipy.sparse import block_array, coo_array, eye_array, kron

    cells = [(q, pattern, n) for q, profile in enumerate(profiles) for pattern, n in profile]
    profile_of, pattern_of, n_rows = np.array(cells).T  # [C] each
    n_samples, n_cells, n_profiles = len(sizes), len(cells), len(profiles)
    at_most = coo_array((-n_rows, (range(n_cells), profile_of)), shape=(n_cells, n_profiles))
    each, goals = eye_array(n_samples), eye_array(goal.size)
    has_label = kron(each, patterns[pattern_of].T)  # [S L, S C]
    matrix = block_array(
        [
            [eye_array(n_samples * n_cells), kron(each, at_most), None, None],  # rows come with their patients
            [None, kron(np.ones((1, n_samples)), eye_array(n_profiles)), None, None],  # a patient goes to one sample
            [kron(each, np.ones((1, n_cells))), None, None, None],  # a sample is full
            [has_label, None, goals, -goals],  # positives + missing - beyond = goal
        ],
        format="csr",
    )
    unbounded = np.full(n_samples * n_cells + n_profiles, -np.inf)
    low = np.concatenate([unbounded, sizes, goal.reshape(-1)])
    high = np.concatenate([np.zeros(n_samples * n_cells), n_patients, sizes, goal.reshape(-1)])
    return matrix, low, high


def _draw(solution: Ints, groups: Mapping[Profile, list[_Rows]], n_samples: int, n_rows: int) -> Ints:
    """The sample of each row [M] out of the number of rows of every cell and of patients of every profile."""
    n_cells = sum(len(profile) for profile in groups)
    cells = solution[: n_samples * n_cells].reshape(n_samples, n_cells)
    taken = solution[n_samples * n_cells :][: n_samples * len(groups)].reshape(n_samples, len(groups))
    drawn = np.full(n_rows, -1, dtype=np.int64)
    cell = 0
    for q, (profile, patients) in enumerate(groups.items()):
        borders = [0, *np.cumsum(taken[:, q]).tolist()]
        for pattern, _ in profile:
            for s in range(n_samples):
                rows = [row for patient in patients[borders[s] : borders[s + 1]] for row in patient[pattern]]
                drawn[rows[: cells[s, cell]]] = s
            cell += 1
    return drawn


def _lacking(marks: Bools, drawn: Ints, goal: Ints) -> Ints:
    """Positives [S, L] missing to the goals."""
    return np.maximum(0, goal - positives_by_sample(marks, drawn, len(goal)))
