# The prediction service: no torch, no Airflow, no MLflow.
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
COPY infra/docker/service.lock .
# OpenVINO comes with plugins for other devices and other formats: 70 MB that nothing here asks for.
RUN /opt/venv/bin/pip install --progress-bar off -r service.lock \
    && cd /opt/venv/lib/python3.11/site-packages/openvino/libs \
    && rm -f libopenvino_intel_[gn]pu_* libopenvino_tensorflow* libopenvino_pytorch* libopenvino_paddle* \
        libopenvino_jax* libopenvino_gguf* cache.json

FROM python:3.11-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --create-home --uid 10001 evergreen \
    && mkdir -p /var/lib/evergreen && chown evergreen /var/lib/evergreen
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/evergreen
COPY ml ml
COPY serving serving
COPY infra/__init__.py infra/__init__.py
COPY infra/docker/__init__.py infra/docker/healthy.py infra/docker/
# Nobody may write here later, so bytecode is made now.
RUN python -m compileall -q .
USER evergreen
ENV EVERGREEN_HOME=/var/lib/evergreen PROMETHEUS_MULTIPROC_DIR=/tmp/metrics WORKERS=2
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["python", "-m", "infra.docker.healthy", "http://127.0.0.1:8000/healthz"]
CMD ["sh", "-c", "rm -rf $PROMETHEUS_MULTIPROC_DIR && mkdir -p $PROMETHEUS_MULTIPROC_DIR && exec python -m serving --host 0.0.0.0 --workers $WORKERS"]
