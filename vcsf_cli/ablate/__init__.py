"""Tables of rows that differ from each other by a few keys: trained, measured, and set side by
side."""
