# Airflow's components, MLflow's server and the one-shot init share this image.
FROM python:3.11-slim-bookworm
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/evergreen
# Wheels put into infra/docker/wheels (a small CPU build of torch, say) win over the registry's.
COPY infra/docker/wheels wheels
COPY infra/docker/pipeline.lock .
RUN pip install --quiet --find-links wheels -r pipeline.lock && rm -rf wheels
RUN useradd --system --create-home --uid 10001 evergreen \
    && mkdir -p /var/lib/evergreen/airflow && chown -R evergreen /var/lib/evergreen
COPY . .
USER evergreen
ENV PYTHONPATH=/opt/evergreen:/opt/evergreen/infra/airflow AIRFLOW_HOME=/var/lib/evergreen/airflow EVERGREEN_HOME=/var/lib/evergreen
