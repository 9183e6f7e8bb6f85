"""Releases: deploys the model of a decision to every replica, or rolls it back."""
