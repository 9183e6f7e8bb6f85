"""Renders the console's pages from templates, with autoescaping."""

from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, select_autoescape

from ml.settings import Settings

FOLDER: Final = Path(__file__).parent


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(FOLDER), autoescape=select_autoescape(), trim_blocks=True)


def render(name: str, settings: Settings, **values: Any) -> str:
    """Render a page, with the links and values that all pages share."""
    links = {
        "Deployments": "/console/deployments",
        "Drops": "/console/drops",
        "Quarantine": "/console/quarantine",
        "Labels": "/console/labels",
        "MLflow": settings.mlflow_page or settings.mlflow_url,
        "Airflow": settings.airflow_url,
    }
    links |= {"API": "/docs"}
    shared = {"model_name": settings.model_name, "keyless": settings.api_keys == "loopback"}
    return _environment().get_template(name).render(links=links, **shared, **values)
