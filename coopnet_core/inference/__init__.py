"""From camera images to depth, flow, odometry and a motion mask (no torch in here)."""
