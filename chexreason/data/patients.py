"""Whose film it is: the one form of a vendor's name and of its patients' ids, however a table writes them."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Vendors whose ids are known, by their one name: other names; how files write an id (a bare number, with or without
# zeros and "p", a file's name, a path: "00000013_002.png", "files/p10/p10000032/s50414267"); how manifests write it.
_VENDORS = {
    "nih14": ("nih(14|(chest)?(cxr|xray)(8|14)?)?|chestxray(8|14)", r"(?:.*/)?0*(\d{1,8})(?:_\d{3}.*)?", "{}"),
    "mimic": ("mimic(cxr|cxrjpg|iv)?", r"(?:.*/)?p?(\d{8})(?:/.*)?", "{}"),
    "chexpert": ("chexpert(v10)?(small|plus)?", r"(?:.*/)?(?:patient)?0*(\d{1,5})(?:/.*)?", "patient{:0>5}"),
}
_QUOTES = "'`\u2018\u2019\u02bc"  # a spreadsheet puts one before a number that is text
_FREE = re.compile(r"^p(at(ient)?)?[\W_]*(?=\d)|(?<!\d)0+(?=\d)")  # what one file writes before a number, another not


@cache
def vendor_of(name: str) -> str:
    """The one name of the vendor ``name``, whatever its case, spaces and marks: "MIMIC-CXR" is "mimic"."""
    words = re.findall(r"[^\W_]+", _plain(name).casefold())
    known = (vendor for vendor, (names, *_) in _VENDORS.items() if re.fullmatch(names, "".join(words)))
    return next(known, "_".join(words) or name)


def patient_number(vendor: str, written: str) -> str:
    """The id of a patient of ``vendor`` as manifests write it; "" where that vendor has no such id.

    Of a vendor whose ids are not known, it is what was ``written`` in plain characters, without quotes and outer
    spaces: whether zeros and capitals count there, nobody can tell (``same_patient``).
    """
    plain = _plain(written).lstrip(_QUOTES).strip()
    _, pattern, form = _VENDORS.get(vendor, ("", "(.*)", "{}"))
    found = re.fullmatch(pattern, plain, re.IGNORECASE)
    return form.format(found[1]) if found else ""


def same_patient(patient_id: str) -> str:
    """A key "vendor:number", equal for ids that may mean one patient: leading zeros, case and a "p" do not count."""
    vendor, colon, number = patient_id.partition(":")
    vendor, number = (vendor_of(vendor), number) if colon else ("", patient_id)
    return f"{vendor}:{_FREE.sub('', (patient_number(vendor, number) or number).casefold())}"


def _plain(text: str) -> str:
    """``text`` in its usual characters (full-width digits are digits), without invisible ones and outer spaces."""
    usual = unicodedata.normalize("NFKC", text)
    return "".join(c for c in usual if unicodedata.category(c) not in ("Cf", "Cc")).strip()
