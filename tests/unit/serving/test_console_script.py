"""What the console's own script may not do."""

from pathlib import Path

import serving.console


def test_the_pages_script_makes_no_html_from_text() -> None:
    script = (Path(serving.console.__file__).parent / "static" / "app.js").read_text()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser"):
        assert way not in script
