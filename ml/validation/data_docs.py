"""Data Docs: Great Expectations' own rendering of what it found, as one page without scripts or outer files.

The stock site is four megabytes of fonts a drop, and its pages fetch styles and scripts from six other
servers when they are opened. Ours carry their few styles with them, so they look the same from the
console, from the bucket and from a disk, and run nothing.
"""

import copy
import html
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ml.context import Context
from ml.settings import Settings
from ml.validation.suites import SuiteResult

SITE = "data-docs"
_LISTED = 200  # images named on the page; the report names all
_VALUES = 20  # of an expectation, shown
_SECTIONS = """{% for section in sections %}{% set section_loop = loop %}{% include 'section.j2' %}{% endfor %}"""


def key(subject: str, kind: str = "drops") -> str:
    """The page of what was judged: ``drops``, ``datasets`` or ``predictions``."""
    return f"{SITE}/{kind}/{subject}.html"


def url(settings: Settings, key: str) -> str:
    """Where people read a page: the console hands it out of the bucket."""
    return f"{settings.service_url.rstrip('/')}/console/files/{key}"


def publish(ctx: Context, key: str, page: str) -> None:
    ctx.store.put(key, page.encode(), "text/html; charset=utf-8")


def page(
    title: str,
    subject: str,
    outcome: tuple[str, str],
    verdicts: Sequence[tuple[str, SuiteResult]],
    figures: dict[str, Any],
    rows: Sequence[tuple[str, list[str]]] = (),
    named: tuple[str, str] = ("images put aside", "File"),
) -> str:
    """One HTML page.

    Args:
        title: what was judged.
        subject: its id.
        outcome: ``good``, ``warn`` or ``bad``, and the words.
        verdicts: of each suite, with a heading.
        figures: what was judged as a whole.
        rows: images that were put aside, or else rows that are at fault, with their reasons.
        named: what `rows` are, many and one.
    """
    environment = Environment(
        loader=PackageLoader("ml.intake", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    suites = [
        {"heading": heading, "passed": _passed(v), "failed": v.failed, "html": _rendered(v.result)}
        for heading, v in verdicts
    ]
    told = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in figures.items()}
    listed = {"rows": rows[:_LISTED], "more": max(0, len(rows) - _LISTED), "many": named[0], "one": named[1]}
    return environment.get_template("data_docs.html").render(
        title=title, subject=subject, kind=outcome[0], words=outcome[1], suites=suites, figures=told, **listed
    )


def _passed(verdict: SuiteResult) -> str:
    results = verdict.result.results
    return f"{sum(bool(r.success) for r in results)} of {len(results)} expectations are met"


def _rendered(result: Any) -> str:
    """Great Expectations' rendering of its result, as HTML."""
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    shown = copy.copy(result)
    shown.results = [_shown(outcome) for outcome in result.results]
    document = ValidationResultsPageRenderer(run_info_at_end=True).render(shown).to_json_dict()
    columns = [s for s in document["sections"] if s.get("section_name") != "Overview"]
    view = DefaultJinjaPageView()
    rendered: str = view.env.from_string(_SECTIONS).render(sections=columns)
    return rendered


def _shown(outcome: Any) -> Any:
    """A copy for the page: few examples, nothing that is markup (file names and labels come from outside)."""
    shown = copy.copy(outcome)
    long = ("unexpected_list", "unexpected_index_list", "unexpected_index_query", "partial_unexpected_index_list")
    kept = {k: v for k, v in outcome.result.items() if k not in long}
    shown.result = _escaped({k: v[:_VALUES] if isinstance(v, list) else v for k, v in kept.items()})
    return shown


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {_escaped(k): _escaped(v) for k, v in value.items()}
    return [_escaped(v) for v in value] if isinstance(value, list | tuple) else value
