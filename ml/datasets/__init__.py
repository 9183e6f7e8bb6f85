"""Accepted samples as immutable segments, versions that list them, splits that never change, loaders."""
