"""Erasure: takes images out of every store, by content, and proves that they are gone."""
