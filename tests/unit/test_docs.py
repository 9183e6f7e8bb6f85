"""What the documents name is there: files of the project, and the pages and headings that they link to."""

import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(REPO)
    for page in [*REPO.glob("*.md"), *REPO.glob("docs/**/*.md")]
    if page.name != "CHANGELOG.md"  # of earlier versions, too
)
_FILE = re.compile(r"`((?:dags|expectations|infra|ml|plugins|serving|tests)/[\w./-]+\.\w+)`")
_LINK = re.compile(r"\]\(([^)\s:]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_and_links_exist(page: Path) -> None:
    text = (REPO / page).read_text()
    missing = [name for name in _FILE.findall(text) if not (REPO / name).exists()]
    missing += [link for link in _LINK.findall(text) if not _resolves((REPO / page).parent, link)]
    assert missing == []


def _resolves(folder: Path, link: str) -> bool:
    target, _, heading = link.partition("#")
    path = folder / target if target else None
    if path is not None and not path.exists():
        return False
    return not heading or path is None or heading in _headings(path.read_text())


def _headings(text: str) -> set[str]:
    """Anchors of a page's headings, as code forges make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
