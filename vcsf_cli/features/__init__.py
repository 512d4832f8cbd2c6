"""Features of whole clips: from windows to features, who is near whom, and intervals over
recordings."""
