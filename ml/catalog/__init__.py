"""Postgres: the tables, their migrations, and the queries that matter."""
