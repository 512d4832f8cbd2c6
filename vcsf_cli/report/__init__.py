"""Reports as one HTML file that needs nothing from outside: tables, curves, a map of the embedding
and a gallery."""
