"""What happens in the loop, without a word about who starts it (Airflow, the CLI, a test)."""
