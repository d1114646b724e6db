"""Scores of depth, odometry, flow and motion masks, with baselines to compare with (no torch)."""
