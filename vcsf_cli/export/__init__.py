"""Trained encoders as folders of files: writing, checking and loading them."""
