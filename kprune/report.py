"""What pruning did, in plain numbers."""

from dataclasses import asdict, dataclass, field
from typing import Any

from kprune.engine.files import plain
from kprune.weight_tuning import Tuning

ENOUGH = 10  # tokens per neuron of the widest layer; with fewer, tuning fits chance


@dataclass
class Report:
    """What pruning did, in plain numbers; `dense_…` is of the model before."""

    method: str
    rate: float  # asked for: the share of FLOPs to remove; 0 where a speed-up was asked for instead
    options: dict[str, Any]  # the method's hyperparameters
    seed: int  # of the sample, as `tokens` and `samples`
    tokens: int
    samples: int  # sequences
    length: float  # tokens per sequence that FLOPs are counted at
    dense_flops: float  # per sequence
    limit: float  # the most FLOPs allowed
    dense_parameters: int  # of the whole model, embeddings included
    dense_heads: list[int]  # of each layer
    dense_neurons: list[int]
    flops: float = 0.0
    parameters: int = 0
    heads: list[int] = field(default_factory=list)
    neurons: list[int] = field(default_factory=list)
    # Numbers of the surviving units of each sublayer, from 0, as in the dense model.
    kept: list[list[int]] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)  # ν of the mask searches
    tuning: list[Tuning] = field(default_factory=list)  # what weight-tuning did at each sublayer
    seconds: dict[str, float] = field(default_factory=dict)  # wall-clock time of each step
    # Where a speed-up was asked for: `asked`, `predicted` by the latency table and `measured` on
    # the pruned model, at `batch_size` and `length`.
    speed: dict[str, float] = field(default_factory=dict)
    model: str = ""  # name of the dense one
    weights: str = ""  # its weights' fingerprint, by which teachers of one name are told apart
    sample: str = ""  # name of its task, "texts" for one's own
    columns: int = 1  # texts in each of its sequences
    notes: list[str] = field(default_factory=list)  # what else there is to say

    def note_few_tokens(self) -> None:
        """Say so where tuning had fewer tokens than it takes not to fit chance."""
        if self.tuning and self.tokens < ENOUGH * max(self.neurons):
            self.notes.append(
                f"{self.tokens:,} tokens are fewer than {ENOUGH} for each of the "
                f"{max(self.neurons):,} neurons left in the widest layer: tuning may fit chance; "
                "take a larger sample"
            )

    @property
    def achieved_rate(self) -> float:
        """The share of FLOPs that is gone; at least `rate`."""
        return 1 - self.flops / self.dense_flops

    def to_dict(self) -> dict[str, Any]:
        """All of it as strict JSON can hold it: infinities by their names, which `float` reads."""
        return plain({**asdict(self), "achieved_rate": self.achieved_rate})

    def __str__(self) -> str:
        limit = f"at rate {self.rate:g}" if not self.speed else "to a limit in time"
        lines = [
            f"{self.method} {limit}: {self.flops / 1e6:,.1f} of "
            f"{self.dense_flops / 1e6:,.1f} MFLOPs per sequence "
            f"of {self.length:.1f} tokens left "
            f"({self.achieved_rate:.1%} gone), {self.parameters / 1e6:.1f}M of "
            f"{self.dense_parameters / 1e6:.1f}M parameters",
            f"surviving heads per layer:   {self.heads}",
            f"surviving neurons per layer: {self.neurons}",
            "seconds: " + ", ".join(f"{step} {spent:.1f}" for step, spent in self.seconds.items()),
        ]
        if self.speed:
            text = "speed-up {asked:g}× asked, {measured:.2f}× measured at batches of "
            text += "{batch_size} × {length} tokens ({predicted:.2f}× by the table)"
            lines.append(text.format(**self.speed))
        troubles: dict[str, list[str]] = {}
        for t, tuned in enumerate(self.tuning):
            if tuned.trouble:
                troubles.setdefault(tuned.trouble, []).append(str(t + 1))
        lines += [
            f"sublayer{'s' * (len(where) > 1)} {', '.join(where)}: {trouble}"
            for trouble, where in troubles.items()
        ]
        return "\n".join(lines + self.notes)
