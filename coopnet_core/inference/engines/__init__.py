"""Engines for NVIDIA GPUs, built from a bundle's ONNX files by TensorRT or TensorRT-RTX."""
