"""Stand-ins for what has lost every unit: no parameter of size 0 is left to trip over."""

import torch
from torch import Tensor, nn


def home(weight: Tensor) -> torch.device:
    """Where a weight is, or will be when it is loaded."""
    return torch.device("cpu") if weight.device.type == "meta" else weight.device


class NoUnits(nn.Module):
    """A projection that gives its bias, whatever it is given, or one to no units."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self.register_buffer("weight", weight.new_zeros(weight.shape, device=home(weight)), False)
        self.bias = linear.bias if self.out_features else None

    def forward(self, features: Tensor) -> Tensor:
        if not self.out_features:
            return features[..., :0]
        nothing = features[..., :0].sum(-1, keepdim=True)
        if self.bias is None:
            return nothing.expand(*features.shape[:-1], self.out_features)
        return nothing + self.bias


class NoHeads(nn.Module):
    """An attention without heads: the projection `out` and the `norm` that lie within it remain."""

    def __init__(self, attention: nn.Module, out: str, norm: str):
        super().__init__()
        for name, part in attention.named_children():
            self.add_module(name, part)
        self.out, self.norm = out, norm

    def forward(self, *given, **named) -> tuple[Tensor, None]:
        hidden_states = [*given, *named.values()][0]  # by name, in transformers 4's DistilBERT
        found = hidden_states[..., :0]
        if self.out:
            found = self.get_submodule(self.out)(found)
        if self.norm:
            found = self.get_submodule(self.norm)(hidden_states + found)
        return found, None
