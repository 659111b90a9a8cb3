from __future__ import annotations

from airgap.tables import markdown_table, text_table

ROWS = [["a", "1"], ["longer|name", ""]]


def test_text_is_aligned_and_has_no_blanks_at_the_end() -> None:
    assert list(text_table(("name", "n"), ROWS)) == ["name         n", "a            1", "longer|name"]
    assert list(text_table(("name", "n"), [])) == ["name  n"]


def test_markdown_keeps_its_columns() -> None:
    assert list(markdown_table(("name", "n"), ROWS)) == [
        "| name | n |", "| --- | --- |", "| a | 1 |", "| longer\\|name |  |",
    ]  # fmt: skip
