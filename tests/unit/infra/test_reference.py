"""The reference pages are those of the settings, commands and routes that there are."""

import pytest

from infra import reference


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_is_up_to_date(name: str) -> None:
    page = reference.PAGES[name]()
    assert (reference.DOCS / name).read_text() == page, f"docs/{name} is out of date: run `make docs`"
