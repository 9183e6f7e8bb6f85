"""What Airflow itself gains."""
