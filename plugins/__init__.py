"""Airflow plugins, and code that the DAGs share."""
