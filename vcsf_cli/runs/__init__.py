"""Run folders: what is in them, how a run is found, begun, restored, and how its results are
kept."""
