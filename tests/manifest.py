"""The Kubernetes manifest for training, read."""

from pathlib import Path
from typing import Any, TypeAlias

import yaml

Parts: TypeAlias = dict[str, dict[str, Any]]
"""By kind."""


def read() -> Parts:
    text = Path("infra/kubernetes/training.yaml").read_text()
    return {part["kind"]: part for part in yaml.safe_load_all(text)}


def container(parts: Parts) -> dict[str, Any]:
    """Of the job's pods, which have one."""
    (one,) = parts["Job"]["spec"]["template"]["spec"]["containers"]
    spec: dict[str, Any] = one
    return spec


def options(parts: Parts) -> dict[str, str]:
    """Of `torchrun`."""
    given = [argument for argument in container(parts)["args"] if argument.startswith("--")]
    return dict(argument.removeprefix("--").split("=", 1) for argument in given)
