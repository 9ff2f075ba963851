"""Everything that can be chosen when pruning: the one list of names, defaults and checks."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from kprune.data.tasks import nearest
from kprune.methods import HYPERPARAMETERS, INGREDIENTS, METHODS

LEAST = {"batch_size": 1, "length": 1, "seed": 0, "tokens": 1}
MOST = 2**32 - 1  # of these, and what numpy takes as a seed
LARGEST = 1e15  # weight or temperature, whose square is still a float32
FASTEST = 1000  # a speed-up that no limit could give; its table would be measured for nothing
WORDS = {"precision": ("auto", "bf16", "full"), "pooling": ("mean", "cls")}


@dataclass(frozen=True)
class Options:
    """Everything that can be chosen when pruning; ValueError for a value that makes no sense.

    Attributes:
        rate: compression rate, the share of FLOPs to remove, in (0, 1).
        method: name of the method, one of `METHODS`.
        gamma: temperature γ of predictive knowledge.
        lam: λ, the weight of representational against predictive knowledge.
        mu: μ, the weight of heads against neurons.
        without: for an ablation, the ingredients to leave out, of `INGREDIENTS[method]`, with
            commas between them.
        reuse: K-prune measures all scores anew at every sublayer, which is most of its time. With
            a positive number it keeps them until the student has moved by more (`Reused`). 0.4
            takes about two thirds of the time, `math.inf` a third (two measurements).
        multiple: K-prune and K-prune+ keep a multiple of so many neurons in each layer that loses
            any, as matrix units like it. 0 means 16 with `speedup` and 1, no rounding, without.
        speedup: a limit in time in place of `rate`: how many times as fast as the model the pruned
            one shall be on this machine, at batches of `batch_size` sequences of `length` tokens;
            0 takes the rate.
        batch_size, length: where `speedup` shall hold.
        seed: of the draw, and of what is random in a method; a sample drawn already has its own.
        tokens: size of the draw, likewise.
        precision: of the passes that only rank units: "bf16", "full" (the model's own), or "auto",
            bf16 where the hardware multiplies it natively.
        pooling: of a model without a head, an embedding model: "mean" over tokens, or the first,
            "cls".
        normalize: whether such a model's output is scaled to length 1.
    """

    rate: float = 0.6
    method: str = "kprune"
    gamma: float = 2.0
    lam: float = 0.00025
    mu: float = 64.0
    without: str = ""
    reuse: float = 0.0
    multiple: int = 0
    speedup: float = 0.0
    batch_size: int = 32
    length: int = 128
    seed: int = 0
    tokens: int = 100_000
    precision: str = "auto"
    pooling: str = "mean"
    normalize: bool = True

    def __post_init__(self) -> None:
        for option in fields(self):
            value = _typed(option.name, getattr(self, option.name), type(option.default))
            object.__setattr__(self, option.name, value)
        for sentence in self._faults(INGREDIENTS.get(self.method, ())):
            raise ValueError(sentence)

    def _faults(self, known: Sequence[str]) -> Iterator[str]:
        """What makes no sense; `known` ingredients are what sublayer-wise methods alone have."""
        method, names = self.method, ", ".join(INGREDIENTS)
        if not 0 < self.rate < 1:
            yield f"rate is a share of FLOPs (60%: 0.6), between 0 and 1; got {self.rate!r}."
        if method not in METHODS:
            yield f"There is no method {method!r}; {nearest(method, METHODS)}"
        if not (0 < self.gamma <= LARGEST and 0 <= self.lam <= LARGEST and 0 < self.mu <= LARGEST):
            got = f"gamma={self.gamma}, lam={self.lam}, mu={self.mu}"
            most = f"all at most {LARGEST:g}"
            yield f"gamma and mu must be positive and lam not negative, {most}; got {got}."
        for name, having in HYPERPARAMETERS.items():
            given = getattr(self, name)
            if method in METHODS and method not in having and given != getattr(Options, name):
                whose = " and ".join(having)
                yield f"{name} is of {whose}; {method!r} has none, so leave it out; got {given}."
        if unknown := [name for name in self.left_out if name not in known]:
            yield (
                f"without names ingredients of the method, with commas between them: {unknown[0]!r}"
                f" is not among those of {method!r} ({', '.join(known) or 'it has none'})."
            )
        left, other = {*self.left_out}, {"predictive", "sublayerwise"} & {*self.left_out}
        if method == "kprune" and other and ("representational" in left or not self.lam):
            yield (
                f"Without {min(other)} and without representational knowledge (or with lam=0) "
                "nothing is left to rank units by; leave out one of the two."
            )
        again = ", ".join(name for name, own in INGREDIENTS.items() if "sublayerwise" in own)
        if not self.reuse >= 0 or (self.reuse and "sublayerwise" not in known):
            yield (
                f"reuse is the error up to which {again} keeps its scores, which other methods "
                f"measure once, at least 0; got {self.reuse} for {method!r}."
            )
        if self.reuse and "sublayerwise" in self.left_out:
            yield "reuse keeps scores from sublayer to sublayer; leave it out without sublayerwise."
        if self.reuse and "tuning" in self.left_out:
            yield "reuse goes by tuning's errors; leave it out where without names tuning."
        if self.multiple < 0 or (self.multiple > 1 and not known):
            yield (
                "multiple is the number of neurons to round to, a whole number of at least 1, for "
                f"the methods {names}; got {self.multiple} for {method!r}."
            )
        if self.speedup and self.rate != Options.rate:
            yield "rate is a limit in FLOPs and speedup one in time; give one of them."
        if self.speedup and not (1 < self.speedup <= FASTEST and known):
            yield (
                f"speedup is how many times as fast the pruned model shall be, above 1 and at most "
                f"{FASTEST:,}, for the methods {names}; got {self.speedup} for {method!r}."
            )
        for name, least in LEAST.items():
            if not getattr(self, name) >= least:
                yield f"{name} is at least {least}; got {getattr(self, name)}."
            if getattr(self, name) > MOST:
                yield f"{name} is below 2³², as numpy has it; got {getattr(self, name)}."
        for name, words in WORDS.items():
            if getattr(self, name) not in words:
                known = " or ".join(f'"{word}"' for word in words)
                yield f"{name} is {known}; got {getattr(self, name)!r}."

    @property
    def left_out(self) -> list[str]:
        """The ingredients that `without` names."""
        return [name.strip() for name in self.without.split(",") if name.strip()]


def _typed(name: str, value: Any, wanted: type) -> Any:
    """The value as Python's own type, where numpy's has the same meaning."""
    allowed = {float: Real, int: Integral}.get(wanted, wanted)
    if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{name} is of type {wanted.__name__}; got {value!r}.")
    return wanted(value)


def known_options(names: Iterable[str]) -> None:
    """Raise ValueError for a name that is none of `Options`."""
    known = [option.name for option in fields(Options)]
    for name in names:
        if name not in known:
            raise ValueError(f"There is no option {name!r}; {nearest(name, known)}")


def read_options(words: Sequence[str]) -> Options:
    """Options from the command line's words, name=value; ValueError for what is none of them."""
    types = {option.name: type(option.default) for option in fields(Options)}
    chosen: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        known_options([name])
        if not sign:
            raise ValueError(f"Write the option {name} with its value, {name}=value.")
        if name in chosen:
            raise ValueError(f"The option {name} is given twice.")
        try:
            read = {str: str, float: float}.get(types[name], json.loads)
            chosen[name] = read(value)
        except ValueError as error:
            raise ValueError(f"{name} is of type {types[name].__name__}; got {value!r}.") from error
    return Options(**chosen)
