"""Checkpoints of other kinds: the paper's released ones become ours, plain text generation both ways."""
