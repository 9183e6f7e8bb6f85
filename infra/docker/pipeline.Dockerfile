# Airflow's components, MLflow's server and the one-shot init share this image.
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
WORKDIR /build
# Wheels put into infra/docker/wheels (a small CPU build of torch, say) win over the registry's.
COPY infra/docker/wheels wheels
COPY infra/docker/pipeline.lock .
RUN /opt/venv/bin/pip install --progress-bar off --find-links wheels -r pipeline.lock

# The wheels themselves stay behind.
FROM python:3.11-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --create-home --uid 10001 evergreen \
    && mkdir -p /var/lib/evergreen/airflow /var/lib/evergreen/home \
    && chown -R evergreen /var/lib/evergreen
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/evergreen
COPY ml ml
COPY dags dags
COPY plugins plugins
COPY expectations expectations
# Not the whole folder: it holds the wheels.
COPY infra/*.py infra/
COPY infra/airflow infra/airflow
COPY infra/local infra/local
COPY infra/docker/*.py infra/docker/
# Nobody may write here later, so bytecode is made now.
RUN python -m compileall -q .
# There is no git here: a trained model names this package's version, which ends with the revision.
COPY pyproject.toml .
ARG CODE_VERSION=unknown
RUN python -m infra.docker.metadata "$CODE_VERSION"
USER evergreen
ENV PYTHONPATH=/opt/evergreen:/opt/evergreen/infra/airflow \
    AIRFLOW_HOME=/var/lib/evergreen/airflow \
    EVERGREEN_HOME=/var/lib/evergreen/home
