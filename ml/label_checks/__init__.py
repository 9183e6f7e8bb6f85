"""Checks the labels of a drop by learning them, and looks for leaks and backdoors."""
