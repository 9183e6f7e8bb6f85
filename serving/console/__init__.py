"""The console: one page that shows the live model, lets a person try it, and tells of the last cycles."""
