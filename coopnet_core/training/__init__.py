"""The co-training loop."""
