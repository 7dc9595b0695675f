"""The vocabulary of the house: the few records that every room passes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sign:
    """One visible sign behind a label, where the source knows it (phantoms do, text-mined sets do not).

    ``side`` is "left", "right", "both" or "" (midline or unknown), as the patient's side; ``severity`` lies in 0..1.
    """

    label: str
    side: str = ""
    severity: float = 0.5


@dataclass(frozen=True, slots=True)
class Study:
    """One radiograph with its labels already resolved by a declared policy.

    ``target`` and ``mask`` are [L] in the order of the label set the study was read with; ``mask`` is False where the
    source does not label the class (its target is then 0 and must not be scored). ``patient_id`` is unique across
    data sets (prefixed with the source), ``study_id`` likewise. ``image_sha256`` is the hash of the image file's bytes,
    "" where the images were not looked at.
    """

    study_id: str
    patient_id: str
    dataset: str
    image: Path
    target: tuple[int, ...]
    mask: tuple[bool, ...]
    view: str = ""
    age: int | None = None
    sex: str = ""
    signs: tuple[Sign, ...] = ()
    image_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is asked about one study: the user's text and, in supervised training, the assistant's answer."""

    study: Study
    prompt: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the parser read out of one model output.

    ``labels`` holds the valid labels, once each, in label-set order; it is empty when ``broken`` names the rule that
    makes the whole output unusable. ``unknown`` and ``duplicates`` hold the offending items as written, one entry an
    occurrence; ``stray_blocks`` counts stretches of text outside the two blocks.
    """

    labels: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    stray_blocks: int = 0
    broken: str | None = None
    think: str = ""

    @property
    def valid(self) -> bool:
        """True when the output obeys the answer format."""
        return self.broken is None


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer to one study: its text as parsed, its length in tokens, whether it ended by itself."""

    study_id: str
    text: str
    parsed: Parsed
    n_tokens: int
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Prediction:
    """One scored answer, self-sufficient: every table is rebuilt from these alone.

    ``truth`` and ``predicted`` are label names; ``labelled`` are the labels the study's source judges at all
    (predictions outside it are dropped before scoring). ``broken`` names the format rule an unusable output broke.
    ``policy`` says how uncertain and blank marks became that truth, ``data_sha256`` is the start (16 hex digits) of
    the content hash of the manifest it was read from; both are "" where they were not recorded. ``named`` are all
    labels that the answer named, judged or not, and ``unknown`` its items that are no labels, as written; both are None
    where they were not recorded.
    """

    study_id: str
    patient_id: str
    dataset: str
    text: str
    predicted: tuple[str, ...]
    truth: tuple[str, ...]
    labelled: tuple[str, ...]
    broken: str | None = None
    n_tokens: int = 0
    image: str = ""
    policy: str = ""
    data_sha256: str = ""
    named: tuple[str, ...] | None = None
    unknown: tuple[str, ...] | None = None
