"""The two pathways, their heads, the momentum encoder and its queue; sampler and loss; weights from
files."""
