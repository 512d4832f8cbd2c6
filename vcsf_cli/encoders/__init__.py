"""What `--from` names: encoders of runs, of exports, of weights in a file, and of others."""
