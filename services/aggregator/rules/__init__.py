"""Aggregation rules: what the next version is made of. Numbers in, numbers out; no store, no round."""
