"""Copies of a model that share its weights."""

import copy

from torch import nn
from transformers import PreTrainedModel


def sharing_weights(model: PreTrainedModel, *whole: object) -> PreTrainedModel:
    """A copy, in evaluation mode, whose parameters are frozen views; all but `whole` is its own."""
    light = (vars(model).get(name) for name in ("tokenizer", "report"))  # to copy one takes long
    shared: dict[int, object] = {id(part): part for part in (*model.buffers(), *whole, *light)}
    shared |= {id(weight): nn.Parameter(weight.detach(), False) for weight in model.parameters()}
    for part in model.modules():  # its ten dictionaries of hooks; copying those takes the longest
        shared |= {
            id(own): type(own)() for own in vars(part).values() if isinstance(own, dict) and not own
        }
    try:
        copied = copy.deepcopy(model, shared).eval()
    except (RuntimeError, TypeError) as error:  # a tensor with a history, a lock
        raise ValueError(
            f"The model holds something that cannot be copied: {str(error).splitlines()[0]}; take "
            "masks and norms of weights off first (torch.nn.utils.prune.remove and the like)."
        ) from error
    if "_original_forward" in vars(copied):  # of a bf16 Trainer, which computes in autocast
        del copied.forward, copied._original_forward
    return copied
