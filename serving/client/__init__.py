"""The Python client of the service, synchronous and asynchronous, with typed answers and retries.

    with Client("http://127.0.0.1:8000", key="evg_…") as client:
        answer = client.predict(Path("cat.jpg").read_bytes())
        client.feedback("cat", prediction_id=answer.id)

`AsyncClient` has the same methods as coroutines. Every request is safe to retry: at worst a prediction is logged
twice.
"""

from serving.client.answers import (
    Decision,
    FeedbackOutcome,
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
    "FeedbackOutcome",
    "Model",
    "Prediction",
    "RefusedError",
    "Retry",
    "ServiceError",
    "UnreachableError",
]
