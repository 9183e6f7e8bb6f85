"""Data Docs: Great Expectations' rendering of a validation result as one self-contained HTML page without scripts.

The standard site takes four megabytes of fonts per drop, and its pages load styles and scripts from six
other servers. These pages contain their few styles, so they look the same in the console, in the bucket
and on disk, and run no code.
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
_MAX_ROWS = 200  # on the page; the JSON report lists all
_MAX_VALUES = 20  # examples shown for an expectation
_SECTIONS = """{% for section in sections %}{% set section_loop = loop %}{% include 'section.j2' %}{% endfor %}"""


def key(subject: str, kind: str = "drops") -> str:
    """The object key of a page; `kind` is ``drops``, ``datasets`` or ``predictions``."""
    return f"{SITE}/{kind}/{subject}.html"


def url(settings: Settings, key: str) -> str:
    """The address of a page in the console, which reads it from the bucket."""
    return f"{settings.service_url.rstrip('/')}/console/files/{key}"


def publish(ctx: Context, key: str, page: str) -> None:
    ctx.store.put(key, page.encode(), "text/html; charset=utf-8")


def render(
    title: str,
    subject: str,
    outcome: tuple[str, str],
    verdicts: Sequence[tuple[str, SuiteResult]],
    figures: dict[str, Any],
    rows: Sequence[tuple[str, list[str]]] = (),
    row_names: tuple[str, str] = ("images put aside", "File"),
) -> str:
    """Render one HTML page.

    Args:
        title: what was validated.
        subject: its id.
        outcome: ``good``, ``warn`` or ``bad``, and the text.
        verdicts: a heading and the result of each suite.
        figures: values that describe the subject as a whole.
        rows: quarantined images, or other failing rows, with their reasons.
        row_names: what a row is, in the plural for the heading and in the singular for the column.
    """
    environment = Environment(
        loader=PackageLoader("ml.intake", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    suites = [
        {"heading": heading, "passed": _count_passed(v), "failed": v.failed, "html": _render_result(v.result)}
        for heading, v in verdicts
    ]
    formatted = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in figures.items()}
    table = {
        "rows": rows[:_MAX_ROWS],
        "more": max(0, len(rows) - _MAX_ROWS),
        "heading": row_names[0],
        "column": row_names[1],
    }
    return environment.get_template("data_docs.html").render(
        title=title, subject=subject, kind=outcome[0], words=outcome[1], suites=suites, figures=formatted, **table
    )


def _count_passed(verdict: SuiteResult) -> str:
    results = verdict.result.results
    return f"{sum(bool(r.success) for r in results)} of {len(results)} expectations are met"


def _render_result(result: Any) -> str:
    """Great Expectations' HTML of its result."""
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    shortened = copy.copy(result)
    shortened.results = [_shorten(outcome) for outcome in result.results]
    document = ValidationResultsPageRenderer(run_info_at_end=True).render(shortened).to_json_dict()
    sections = [s for s in document["sections"] if s.get("section_name") != "Overview"]
    view = DefaultJinjaPageView()
    body: str = view.env.from_string(_SECTIONS).render(sections=sections)
    return body


def _shorten(outcome: Any) -> Any:
    """A copy with few examples, and with markup escaped: file names and labels are untrusted."""
    shortened = copy.copy(outcome)
    omitted = ("unexpected_list", "unexpected_index_list", "unexpected_index_query", "partial_unexpected_index_list")
    fields = {k: v for k, v in outcome.result.items() if k not in omitted}
    shortened.result = _escape({k: v[:_MAX_VALUES] if isinstance(v, list) else v for k, v in fields.items()})
    return shortened


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {_escape(k): _escape(v) for k, v in value.items()}
    return [_escape(v) for v in value] if isinstance(value, list | tuple) else value
