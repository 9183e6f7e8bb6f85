"""A context without servers, for stage functions that need no catalog."""

from pathlib import Path

from sqlalchemy import create_engine

from ml.context import Context
from ml.settings import Settings
from tests.doubles.object_store import MemoryObjectStore
from tests.doubles.registry import MemoryRegistry


def memory_context(home: Path, **settings: object) -> Context:
    """Buckets and a registry in memory; the catalog raises `UnavailableError`."""
    server: dict[str, MemoryObjectStore] = {}
    ctx = Context(
        settings=Settings.model_validate({"home": home, **settings}),
        engine=create_engine("postgresql+psycopg2://nobody@127.0.0.1:1/none"),
        labels=MemoryObjectStore(bucket="labels", server=server),
        store=MemoryObjectStore(bucket="store", server=server),
        artifacts=MemoryObjectStore(bucket="artifacts", server=server),
    )
    vars(ctx)["registry"] = MemoryRegistry()
    return ctx
