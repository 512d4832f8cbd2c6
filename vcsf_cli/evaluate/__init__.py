"""Measurements of a run on a prepared dataset: retrieval and classification."""
