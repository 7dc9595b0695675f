"""The paper's figures as data, and what follows from them alone."""

from __future__ import annotations

import pytest

from chexreason.labels.catalog import CHEXPERT14, NIH9
from chexreason.reports.printed import MACRO, TITLES, all_labels, printed, printed_page, printed_sentences
from tools.printed_tables import page, printed_transfer, rank_reversal, sentences


def test_every_table_is_read_whole() -> None:
    tables = {name: printed(name) for name in TITLES}
    assert {name: (len(t.rows), len(t.columns), t.by_label) for name, t in tables.items()} == {
        "table1": (9, 3, False), "table2": (4, 7, False), "table3": (4, 7, False), "table4": (4, 7, False),
        "table5": (15, 5, True), "table6": (10, 5, True),
    }  # fmt: skip
    assert tables["table2"].rows["free_reasoning"]["macro_f1"] == 0.253
    assert list(tables["table4"].rows) == ["nuanced best", "nuanced last", "hard best", "hard last"]
    assert [label for label in tables["table5"].rows if label != MACRO] == list(CHEXPERT14)
    assert [label for label in tables["table6"].rows if label != MACRO] == list(NIH9)


@pytest.mark.parametrize("name", ["table5", "table6"])
def test_printed_macro_averages_are_plain_means_of_the_printed_rows(name: str) -> None:
    table = printed(name)
    for model in table.columns:
        each = [row[model] for label, row in table.rows.items() if label != MACRO]
        assert sum(each) / len(each) == pytest.approx(table.rows[MACRO][model], abs=1e-3)


def test_rows_are_found_in_any_spelling_and_the_closest_is_named() -> None:
    assert printed("table4").run("nuanced,best") == printed("table4").run("nuanced_best") == "nuanced best"
    assert printed("table5").run("chexreason") == "chexreason"
    with pytest.raises(ValueError, match=r"table2 of the paper has no row 'reasoning_b'.*did you mean 'reasoning_a'"):
        printed("table2").run("reasoning_b")
    with pytest.raises(ValueError, match="the paper has no 'table7'; it has: table1, table2"):
        printed("table7")


def test_all_labels_scores_0_291_on_chexpert() -> None:
    assert all_labels()[MACRO] == pytest.approx(0.291, abs=5e-4)
    assert all_labels()["Edema"] == pytest.approx(2 * 0.156 / 1.156)


def test_ranks_reverse_between_tables_2_and_3() -> None:
    medical, general = printed("table2"), printed("table3")
    pairs, tau = rank_reversal(medical, general, "macro_f1")
    assert all("reasoning_a" in pair for pair in pairs)
    assert (len(pairs), tau) == (3, 0)
    assert rank_reversal(medical, medical, "macro_f1") == ([], 1)


def test_the_page_repeats_the_papers_claim_and_claims_no_more() -> None:
    assert (page(), sentences()) == (printed_page(), printed_sentences())
    assert "+0.064 on CheXpert, over 14 labels, and by -0.056 on NIH, over 9" in sentences()[0]
    nine = "+0.010: 0.302 (medgemma), 0.264 (medgemma_sft), 0.274 (chexreason). On NIH 81% is retained."
    assert sentences()[0].endswith(f"Over the 9 labels that both judge the change on CheXpert is {nine}")
    assert "below it: qwen2_5_vl (0.228), medgemma_sft (0.282)" in sentences()[1]
    assert "no change here is known to be more than chance" in page()
    row = next(row for row in printed_transfer().rows if str(row[0]) == "medgemma_sft → chexreason")
    assert [str(cell) for cell in row[1:]] == ["+0.010", "-0.056", "0.81", "-0.066"]
