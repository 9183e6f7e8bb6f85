"""What the console's own scripts may not do."""

from pathlib import Path

import serving.console


def test_the_pages_scripts_make_no_html_from_text() -> None:
    scripts = sorted((Path(serving.console.__file__).parent / "static").glob("*.js"))
    assert len(scripts) == 3
    for script in scripts:
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser"):
            assert way not in script.read_text(), script.name
