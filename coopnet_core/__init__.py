"""CoopNet: depth, optical flow and odometry networks that train each other without labels."""

__version__ = "0.1.0"
