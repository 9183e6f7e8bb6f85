"""The reference pages are those of the settings and commands that there are."""

import pytest

from infra import reference


@pytest.mark.parametrize(("name", "page"), [("settings.md", reference.settings_page), ("cli.md", reference.cli_page)])
def test_a_page_is_up_to_date(name: str, page: object) -> None:
    assert callable(page)
    assert (reference.DOCS / name).read_text() == page(), f"docs/{name} is out of date: run `make docs`"
