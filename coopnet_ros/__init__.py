"""ROS 2 nodes of coopnet: messages in, messages out; everything else is coopnet_core."""
