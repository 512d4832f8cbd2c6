"""Features of whole clips, their neighbours, and intervals over recordings."""
