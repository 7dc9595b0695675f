"""Which data may not leave the machine, and what names the agreement that allows it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

# Vendors whose agreements forbid passing images, labels or text on, by the prefix of their patients' ids.
VENDORS = ("mimic", "chexpert")
_NO_NAME = {"null", "none", "true", "false", "allowed"}


class ExportError(ValueError):
    """Credentialed data would leave the machine."""


class Record(Protocol):
    """A study, a prediction or a trace."""

    @property
    def dataset(self) -> str: ...
    @property
    def patient_id(self) -> str: ...


def of_vendor(patient_id: str) -> bool:
    """True for a patient of one of ``VENDORS``."""
    return patient_id.partition(":")[0] in VENDORS


def is_held(record: Record, credentialed: Collection[str]) -> bool:
    """True for a record of a set named in ``credentialed``, or of a vendor in ``VENDORS`` in whatever set."""
    return record.dataset in credentialed or of_vendor(record.patient_id)


def held_sets(records: Iterable[Record], credentialed: Collection[str]) -> list[str]:
    """The names of the data sets with a credentialed record, sorted."""
    return sorted({record.dataset for record in records if is_held(record, credentialed)})


def named_agreement(agreement: object) -> str | None:
    """The name of the agreement, None where ``agreement`` has none: "true" or "yes" is no name."""
    named = agreement.strip() if isinstance(agreement, str) else ""
    return named if len(named) >= 8 and named.lower() not in _NO_NAME else None
