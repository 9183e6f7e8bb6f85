"""From a dataset version to a registered challenger."""
