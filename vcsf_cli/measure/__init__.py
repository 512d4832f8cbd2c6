"""Features of whole videos, and what is measured on them."""
