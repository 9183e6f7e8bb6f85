"""A container's health check: exits 0 if a URL answers, or if Airflow's API says a component is healthy.

`python -m infra.docker.healthy http://127.0.0.1:8000/healthz` or `… scheduler`.
"""

import json
import sys
import urllib.request

AIRFLOW = "http://airflow-api:8080/api/v2/monitor/health"


def main(target: str) -> int:
    """The exit code."""
    url = target if target.startswith("http://") else AIRFLOW
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own addresses
            body = answer.read()
    except OSError:
        return 1
    return 0 if url == target or json.loads(body)[target]["status"] == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
