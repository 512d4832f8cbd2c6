"""Searching a prepared dataset with videos that were never prepared."""
