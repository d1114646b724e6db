"""Hand-drawn boxes of what moves in KITTI raw drive 2011_09_26_0002, frames 0 to 9, camera 2.

There is no ground truth for moving things in KITTI raw; these boxes were drawn by eye on the
1242x375 images, around the two cyclists with their bicycles. The tram down the road may or may not
move; its box is scored neither way.
"""

from __future__ import annotations

from coopnet_core.evaluation.motion_metrics import Box

IMAGE_SIZE = (1242, 375)

# Frame number -> (left, top, right, bottom): the cyclist ahead, the cyclist at the wall.
CYCLISTS: dict[int, tuple[Box, Box]] = {
    0: ((748, 163, 786, 239), (1052, 154, 1167, 281)),
    1: ((743, 165, 783, 244), (1053, 160, 1169, 287)),
    2: ((740, 164, 782, 246), (1053, 156, 1176, 288)),
    3: ((735, 160, 780, 246), (1055, 153, 1183, 290)),
    4: ((731, 158, 780, 246), (1057, 146, 1192, 295)),
    5: ((728, 159, 780, 250), (1060, 148, 1200, 303)),
    6: ((726, 161, 780, 257), (1068, 156, 1217, 313)),
    7: ((725, 162, 781, 262), (1076, 154, 1234, 315)),
    8: ((725, 163, 781, 263), (1084, 153, 1242, 321)),
    9: ((725, 163, 784, 269), (1096, 155, 1242, 324)),
}

UNKNOWN: tuple[Box, ...] = ((383, 162, 433, 202),)
