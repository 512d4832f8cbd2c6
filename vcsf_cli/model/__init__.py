"""The two pathways, momentum encoder and queue; samplers and losses; weights from files."""
