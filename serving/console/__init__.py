"""The console: web pages that show the live model and the last cycles, and let a person try the model."""
