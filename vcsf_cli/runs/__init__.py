"""Run folders: opened, found, restored, with logs, stages and results."""
