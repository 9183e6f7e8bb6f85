"""Intake of a drop up to validated rows: find, claim, inspect, validate."""
