"""The Python client of the service, synchronous and asynchronous: typed answers, and another try where that helps.

    with Client("http://127.0.0.1:8000", key="evg_…") as client:
        answer = client.predict(Path("cat.jpg").read_bytes())
        client.feedback("cat", prediction_id=answer.id)

`AsyncClient` has the same methods to be awaited. Everything asked here may be asked twice: what is tried again
after a lost answer is at most logged twice.
"""

from serving.client.answers import (
    Decision,
    Kept,
    Model,
    Prediction,
    RefusedError,
    ServiceError,
    UnreachableError,
)
from serving.client.client import AsyncClient, Client
from serving.client.retry import Retry

__all__ = [
    "AsyncClient",
    "Client",
    "Decision",
    "Kept",
    "Model",
    "Prediction",
    "RefusedError",
    "Retry",
    "ServiceError",
    "UnreachableError",
]
