"""Copies of a model that share its weights."""

import copy

from torch import nn
from transformers import PreTrainedModel


def sharing_weights(model: PreTrainedModel, *whole: object) -> PreTrainedModel:
    """A copy, in evaluation mode, whose parameters are frozen views; all but `whole` is its own."""
    shared: dict[int, object] = {id(part): part for part in (*model.buffers(), *whole)}
    shared |= {id(weight): nn.Parameter(weight.detach(), False) for weight in model.parameters()}
    for part in model.modules():  # its ten dictionaries of hooks; copying those takes the longest
        shared |= {
            id(own): type(own)() for own in vars(part).values() if isinstance(own, dict) and not own
        }
    copied = copy.deepcopy(model, shared).eval()
    if "_original_forward" in vars(copied):  # of a bf16 Trainer, which computes in autocast
        del copied.forward, copied._original_forward
    return copied
