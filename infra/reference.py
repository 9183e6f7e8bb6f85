"""Writes the reference pages of docs/: every setting, command and route, each from the code that defines it.

`python -m infra.reference` (`make docs`) writes them; a test compares them with what is committed.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from ml.settings import PREFIX, Settings
from serving.app import build

DOCS: Final = Path(__file__).parent.parent / "docs"

_INTRODUCTION: Final = f"""# Settings

Every setting is an environment variable `{PREFIX}<NAME>`, read once when a process starts. `evergreen up` writes
those of the local stack to `$EVERGREEN_HOME/evergreen.env`, `evergreen tune` a recipe to `recipe.env` beside it; real
variables win over both. An unknown variable that begins with `{PREFIX}` is an error that names it.

This page is generated from `ml/settings/` by `make docs`.
"""

_REST_INTRODUCTION: Final = """# REST

Every route of the service, from its OpenAPI document, which a running service shows at `/openapi.json` and, to try
out, at `/docs`. How to ask, with examples: [serving.md](serving.md). Errors are problem+json (RFC 9457) with
`title`, `status` and `detail`.

This page is generated from `serving/` by `make docs`.
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


def rest_page() -> str:
    """Markdown: every route with its role, parameters and answers, by topic."""
    # Nothing is contacted before the app starts, so the address may lead nowhere.
    database = SecretStr("postgresql+psycopg2://nobody@127.0.0.1:1/nothing")
    settings = Settings(database_url=database, s3_secret_key=SecretStr("none"), api_keys="required")
    by_topic: dict[str, list[str]] = {}
    for path, operations in build(settings, {}).openapi()["paths"].items():
        for method, operation in operations.items():
            by_topic.setdefault(operation["tags"][0], []).append(_route(f"{method.upper()} {path}", operation))
    sections = [line for topic, routes in by_topic.items() for line in (f"## {topic.capitalize()}", "", *routes)]
    return "\n".join([_REST_INTRODUCTION, *sections])


def main() -> None:
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())


def _route(name: str, operation: dict[str, Any]) -> str:
    lines = [f"### `{name}`", f"{operation['summary']}."]
    if description := operation.get("description"):
        lines += ["", description]
    if parameters := operation.get("parameters"):
        lines += ["", "| parameter | in | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{p['name']}` | {p['in']} | {p.get('description', '')} |" for p in parameters]
    if media_types := operation.get("requestBody", {}).get("content"):
        lines += ["", f"Body: {', '.join(f'`{media_type}`' for media_type in media_types)}."]
    lines += ["", "| status | meaning |", "| --- | --- |"]
    for status, answer in sorted(operation["responses"].items()):
        meaning = answer["description"].replace("Successful Response", "The answer.")  # FastAPI's default
        lines.append(f"| {status} | {meaning} |")
    return "\n".join([*lines, ""])


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


PAGES: Final = {"settings.md": settings_page, "cli.md": cli_page, "rest.md": rest_page}


if __name__ == "__main__":
    main()
