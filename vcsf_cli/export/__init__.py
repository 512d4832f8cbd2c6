"""Trained encoders as files that others can use: what is in a folder, how it is written, checked
and loaded."""
