"""A decision as one HTML page that needs no engineer and no network."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from ml.catalog.decisions import Decision


def render(decision: Decision) -> str:
    """A self-contained page; everything from outside is escaped."""
    environment = Environment(loader=PackageLoader("ml.gate", "templates"), autoescape=True, undefined=StrictUndefined)
    figures = decision.statistics
    bars = [
        (name, figures[f"{name}_accuracy"], figures[f"{name}_interval"])
        for name in ("champion", "challenger")
        if figures.get(f"{name}_accuracy") is not None
    ]
    return environment.get_template("report.html").render(d=decision, f=figures, bars=bars)
