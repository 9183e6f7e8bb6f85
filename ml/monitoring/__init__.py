"""Monitoring of the prediction log: drift, data quality, feedback collection, housekeeping."""
