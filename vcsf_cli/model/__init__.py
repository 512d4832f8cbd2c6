"""The two pathways, their heads, the momentum encoder and its queue."""
