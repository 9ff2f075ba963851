"""Copies of a model that share its weights."""

import copy

from torch import nn
from transformers import PreTrainedModel


def sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose parameters are frozen views of the model's; surgery puts new ones in place.

    Its modules, hooks and configuration are its own; it is in evaluation mode.
    """
    shared: dict[int, object] = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False)
        for weight in model.parameters()
    }
    shared |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, shared).eval()
