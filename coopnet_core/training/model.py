"""The three networks behind one forward, as one module for fabric."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from coopnet_core.geometry.se3 import matrix_from_vector
from coopnet_core.networks import Networks
from coopnet_core.types import Batch, Prediction


class CoTrainingModel(nn.Module):
    """Runs each network once over a batch.

    Args:
        networks: Depth, pose and flow.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.networks = networks.as_module()

    def forward(self, batch: Batch) -> Prediction:
        """Predict depth of both images, the motion between them, and flow in both directions."""
        size = batch.input_tgt.shape[0]
        # Depthwise convolutions run about three times as fast with channels last.
        both = torch.cat([batch.input_tgt, batch.input_src])
        both = both.contiguous(memory_format=torch.channels_last)
        tgt, src = both[:size], both[size:]
        depths: list[Tensor] = self.networks["depth"](both)
        flow_tgt_src, flow_src_tgt = self.networks["flow"](tgt, src)
        vector = self.networks["pose"](tgt, src)
        with torch.autocast(vector.device.type, enabled=False):
            T_src_tgt = matrix_from_vector(vector.float())
        return Prediction(
            inverse_depth_tgt=[d[:size].contiguous() for d in depths],
            inverse_depth_src=[d[size:].contiguous() for d in depths],
            T_src_tgt=T_src_tgt,
            flow_tgt_src=flow_tgt_src,
            flow_src_tgt=flow_src_tgt,
        )


def with_known_pose(batch: Batch, prediction: Prediction) -> Prediction:
    """Replace the predicted motion by the known one where there is one (stereo partners).

    Done outside the model, which under mixed precision sees a rounded batch.
    """
    known = batch.has_pose[:, None, None]
    return prediction._replace(T_src_tgt=torch.where(known, batch.T_src_tgt, prediction.T_src_tgt))
