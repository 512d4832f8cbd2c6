"""Run folders: what is in them, how a run is found, restored and measured anew."""
