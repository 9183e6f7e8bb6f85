"""From a decision to a model that answers everywhere, or everything as it was."""
