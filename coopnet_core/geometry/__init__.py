"""Cameras, rigid motion, sampling, warping and occlusion."""
