"""Copies of a model that share its weights."""

import copy

from torch import nn
from transformers import PreTrainedModel


def sharing_weights(model: PreTrainedModel, *whole: object) -> PreTrainedModel:
    """A copy whose parameters are frozen views of the model's; surgery puts new ones in place.

    It is in evaluation mode; modules, hooks and configuration are its own, but for what is shared
    `whole`.
    """
    shared: dict[int, object] = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False)
        for weight in model.parameters()
    }
    shared |= {id(part): part for part in (*model.buffers(), *whole)}
    copied = copy.deepcopy(model, shared).eval()
    if "_original_forward" in vars(copied):  # of a bf16 Trainer, which computes in autocast
        del copied.forward, copied._original_forward
    return copied
