"""Whole files, locks and checkpoints."""
