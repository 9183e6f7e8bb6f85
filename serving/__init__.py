"""The prediction service. No torch, no Airflow, no MLflow."""
