"""Writes the reference pages of docs/: every setting from the settings classes, every command from the CLI itself.

`python -m infra.reference` (`make docs`) writes them; a test compares them with what is committed.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from ml.settings import PREFIX, Settings

DOCS: Final = Path(__file__).parent.parent / "docs"

_INTRODUCTION: Final = f"""# Settings

Every setting is an environment variable `{PREFIX}<NAME>`, read once when a process starts. `evergreen up` writes
those of the local stack to `$EVERGREEN_HOME/evergreen.env`, `evergreen tune` a recipe to `recipe.env` beside it; real
variables win over both. An unknown variable that begins with `{PREFIX}` is an error that names it.

This page is generated from `ml/settings/` by `make docs`.
"""

_NAMES: Final = {
    "str": "text",
    "float": "number",
    "int": "whole number",
    "bool": "true or false",
    "SecretStr": "secret",
}


def settings_page() -> str:
    """Markdown: a section a concern, a row a setting."""
    return "\n".join([_INTRODUCTION, *(_section(concern) for concern in Settings.__bases__)])


def cli_page() -> str:
    """Markdown: every command with its arguments and options, as Typer describes them."""
    typer = [sys.executable, "-m", "typer", "infra.cli", "utils", "docs"]
    command = [*typer, "--name", "evergreen", "--title", "Commands"]
    # Help must not depend on how wide the terminal is.
    environment = os.environ | {"COLUMNS": "120", "TERM": "dumb"}
    page = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return page.rstrip() + "\n"


def main() -> None:
    (DOCS / "settings.md").write_text(settings_page())
    (DOCS / "cli.md").write_text(cli_page())


def _section(concern: type[BaseModel]) -> str:
    title = concern.__name__.removesuffix("Settings")
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(field)} | {_type_name(field.annotation)} | {field.description or ''} |"
        for name, field in concern.model_fields.items()
    ]
    head = ["| variable | default | type | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([f"## {title}", concern.__doc__ or "", "", *head, *rows, ""])


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "required"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value in ("", (), {}):
        return "none"
    return f"`{value}`"


def _type_name(annotation: object) -> str:
    """What a person would write: `int`, `text`, `a` or `b`, `list of int`."""
    if annotation is type(None):
        return ""
    if get_origin(annotation) is None:
        name = getattr(annotation, "__name__", str(annotation))
        return _NAMES.get(name, name.lower())
    parts = get_args(annotation)
    if all(isinstance(part, str) for part in parts):
        return ", ".join(f"`{part}`" for part in parts)
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(parts[0])}"
    if get_origin(annotation) is dict:
        return "JSON"
    return " or ".join(name for name in map(_type_name, parts) if name)


if __name__ == "__main__":
    main()
