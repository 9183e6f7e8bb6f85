"""What is used of dependencies beyond their public interface. When one of these fails, an upgrade has changed it:

adapt the module that the message names, or lower the dependency's upper bound in pyproject.toml.
"""

import inspect
import tomllib
from pathlib import Path
from typing import Any

import minio
import pytest
from uvicorn import _subprocess
from uvicorn.protocols.http import httptools_impl
from uvicorn.supervisors import multiprocess

USES: list[tuple[str, Any, str, tuple[str, ...]]] = [
    ("ml/storage/listing.py", minio.Minio, "_execute", ("method", "bucket_name", "query_params")),
    ("serving/server/workers.py", _subprocess, "subprocess_started", ("config", "target", "sockets", "stdin_fileno")),
    ("serving/server/workers.py", multiprocess, "Process", ("config", "sockets")),
    ("serving/server/workers.py", multiprocess.Process, "join", ()),
    ("serving/server/workers.py", multiprocess.Process, "target", ("sockets",)),
    ("serving/server/protocol.py", httptools_impl.HttpToolsProtocol, "connection_made", ("transport",)),
    ("serving/server/protocol.py", httptools_impl.HttpToolsProtocol, "connection_lost", ("exc",)),
    ("serving/server/protocol.py", httptools_impl.HttpToolsProtocol, "on_message_begin", ()),
    ("serving/server/protocol.py", httptools_impl.HttpToolsProtocol, "shutdown", ()),
]
SOURCES = [
    ("serving/server/workers.py", multiprocess.Multiprocess, "= Process(self.config, self.sockets)"),
    ("serving/server/protocol.py", httptools_impl.HttpToolsProtocol, "self.connections.add(self)"),
    ("serving/server/protocol.py", httptools_impl.RequestResponseCycle, "if not self.keep_alive:"),
    ("serving/server/protocol.py", httptools_impl.RequestResponseCycle, "self.more_body"),
]


@pytest.mark.parametrize(("module", "owner", "name", "parameters"), USES)
def test_the_names_and_parameters_exist(module: str, owner: Any, name: str, parameters: tuple[str, ...]) -> None:
    used = getattr(owner, name, None)
    assert used is not None, f"{owner.__name__} has no {name} any more, which {module} uses"
    accepted = tuple(inspect.signature(used).parameters)
    missing = [parameter for parameter in parameters if parameter not in accepted]
    assert not missing, f"{owner.__name__}.{name} takes {accepted}, without {missing}, which {module} passes"


@pytest.mark.parametrize(("module", "owner", "text"), SOURCES)
def test_the_code_relied_on_is_there(module: str, owner: Any, text: str) -> None:
    assert text in inspect.getsource(owner), f"{owner.__name__} no longer has `{text}`, which {module} relies on"


@pytest.mark.parametrize("dependency", ["minio", "uvicorn[standard]"])
def test_a_dependency_whose_private_names_are_used_has_an_upper_bound(dependency: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    requirement = next(line for line in project["dependencies"] if line.startswith(f"{dependency}>"))
    assert "<" in requirement, f"{requirement}: private names of it are used, which any release may change"
