"""Readers of recorded image sequences, training pairs, and the data set that feeds training."""
