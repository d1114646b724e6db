"""ATE over short snippets, the odometry score of most papers on self-supervised depth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coopnet_core.errors import ShapeError

Float64 = npt.NDArray[np.float64]

SNIPPET_LENGTH = 5


def snippet_errors(estimate: Float64, truth: Float64, length: int = SNIPPET_LENGTH) -> Float64:
    """Compute the ATE of every snippet (Zhou et al., "SfMLearner", CVPR 2017).

    Each snippet of ``length`` neighbouring frames starts at its own first frame, has its scale
    fitted by least squares, and scores ``sqrt(sum |e|^2) / length``. The division outside the root
    is the published code's; it makes the number smaller than a root mean square by
    ``sqrt(length)``, and every paper that reports "ATE 0.01" does it.

    Args:
        estimate: (N, 4, 4) T_world_cam, any unit.
        truth: (N, 4, 4) T_world_cam, metres.
        length: Frames per snippet; numbers for 3 and for 5 frames do not compare.

    Returns:
        (N - length + 1,) metres, one per snippet. A snippet whose estimate stands still has no
        scale: it is scored as it is, not moving.

    Raises:
        ShapeError: The trajectories are not (N, 4, 4) of one length, or shorter than a snippet.
    """
    if estimate.shape != truth.shape or truth.ndim != 3 or truth.shape[1:] != (4, 4):
        raise ShapeError(
            f"trajectories must both be (N, 4, 4), got {estimate.shape} and {truth.shape}"
        )
    if length < 2 or len(truth) < length:
        raise ShapeError(
            f"a snippet takes {length} frames (2 or more), but the trajectory has {len(truth)}"
        )
    positions, expected = (_snippets(poses, length) for poses in (estimate, truth))
    size = (positions**2).sum(axis=(1, 2))
    product = (positions * expected).sum(axis=(1, 2))
    scale = np.divide(product, size, out=np.zeros_like(size), where=size > 0)
    error = scale[:, None, None] * positions - expected
    return np.asarray(np.sqrt((error**2).sum(axis=(1, 2))) / length, np.float64)


def _snippets(poses: Float64, length: int) -> Float64:
    """Return positions of the snippets in the frame of their first pose, (S, length, 3)."""
    num = len(poses) - length + 1
    T_first_world = np.linalg.inv(poses[:num])
    steps = [(T_first_world @ poses[k : k + num])[:, :3, 3] for k in range(length)]
    return np.stack(steps, axis=1)
