"""A small labelled text-classification task, generated from a seeded grammar.

Each sentence is a short review; its label is the writer's overall verdict. A derivation starts
from the verdict and works downwards: an operator that reverses meaning (a negation, a rejected
report, a contrast) asks its argument for the opposite sign, so the label follows from how the
sentence is put together and single words say little about it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import DatasetDict

# Odds of an operator that keeps the sign. At even odds no word would say anything about the
# label, and an encoder would take long to find a first hold.
KEEP = 0.8
# What the sentences are labelled with in the multi-label task: their domain, in the order of
# `opinions.yaml`, and whether the verdict is positive.
TOPICS = ("film", "phone", "restaurant", "book", "hotel", "positive")
FRAMES = ("plain", "contrast", "contrast", "aside", "fact", "choice", "choice")


@cache
def words() -> dict:
    """The grammar's words, out of `opinions.yaml`."""
    import yaml

    return yaml.safe_load(files(__package__).joinpath("opinions.yaml").read_text("utf-8"))


class _Writer:
    """Writes one sentence about one thing; every method returns text that means `sign`."""

    def __init__(self, rng: Random):
        self.rng, self.words = rng, words()
        self.place = rng.randrange(len(self.words["domains"]))
        self.domain = self.words["domains"][self.place]
        self.thing = rng.choice(self.domain["things"])

    def pick(self, operators: str, sign: int) -> tuple[str, int]:
        """An operator for a meaning, and the sign of its argument, which is drawn first."""
        keep = 1 if self.rng.random() < KEEP else -1
        return self.rng.choice(self.words[operators][keep]), sign * keep

    def adjective(self, sign: int, common: bool = False) -> str:
        usual = self.words["common"][sign]
        return self.rng.choice(usual if common else usual + 4 * self.domain[sign])

    def quality(self, sign: int, degrees: str, common: bool = False) -> str:
        text, sign = self.pick(degrees, sign)
        return text.format(a=self.adjective(sign, common))

    def claim(self, sign: int, degrees: str = "embedded_degrees") -> str:
        return f"{self.thing} was {self.quality(sign, degrees)}"

    def wrapped(self, sign: int, operators: str) -> str:
        text, sign = self.pick(operators, sign)
        return text.format(s=self.claim(sign))

    def report(self, sign: int) -> str:
        text, sign = self.pick("reports", sign)
        nested = self.rng.random() < 0.3
        inner = self.wrapped(sign, "impersonal") if nested else self.claim(sign)
        return text.format(p=self.rng.choice(self.words["people"]), s=inner)

    def parallel(self, sign: int) -> str:
        text, sign = self.pick("parallels", sign)
        quality = self.quality(sign, "embedded_degrees")
        return text.format(e=self.rng.choice(self.domain["earlier"]), a=quality, t=self.thing)

    def action(self, sign: int) -> str:
        text, sign = self.pick("actions", sign)
        return text.format(v=self.rng.choice(self.domain["praise" if sign > 0 else "blame"]))

    def dispute(self, sign: int) -> str:
        text, sign = self.pick("disputes", sign)
        p, q = self.rng.sample(self.words["people"], 2)
        a, b = (self.quality(s, "embedded_degrees") for s in (sign, -sign))
        return text.format(p=p, q=q, t=self.thing, a=a, b=b)

    def weighing(self, sign: int) -> str:
        text, sign = self.pick("weighings", sign)
        (x, a), (y, b) = (s.rsplit(" ", 1) for s in self.rng.sample(self.domain["aspects"], 2))
        a += " " + self.quality(sign, "embedded_degrees", common=True)
        b += " " + self.quality(-sign, "embedded_degrees", common=True)
        return text.format(x=x, a=a, y=y, b=b)

    def verdict(self, sign: int) -> str:
        kind = self.rng.choice(("claim", "personal", "impersonal", "report", "parallel", "action"))
        if kind == "claim":
            return self.claim(sign, "degrees")
        if kind in ("personal", "impersonal"):
            return self.wrapped(sign, kind)
        return getattr(self, kind)(sign)

    def framed(self, frame: str, main: str, sign: int) -> str:
        choice, domain, words = self.rng.choice, self.domain, self.words
        if frame == "contrast":
            granted = f"{choice(domain['aspects'])} {self.quality(-sign, 'degrees', common=True)}"
            return choice(words["contrasts"]).format(c=granted, m=main)
        if frame == "aside":
            other = f"{choice(domain['others'])} {self.quality(choice((1, -1)), 'degrees', True)}"
            return choice(words["asides"]).format(o=other, m=main)
        if frame == "fact":
            return choice(words["facts"]).format(f=choice(domain["facts"]), m=main)
        return main

    def sentence(self, sign: int) -> str:
        frame = self.rng.choice(FRAMES)
        if frame == "choice":
            text = self.rng.choice((self.dispute, self.weighing))(sign)
        else:
            text = self.framed(frame, self.verdict(sign), sign)
        if self.thing not in text:
            text = f"as for {self.thing}, {text}"
        return text[0].upper() + text[1:] + "."


def _draw(size: int, rng: Random, seen: set[str]) -> list[tuple[str, int, int]]:
    """Draw `size` sentences that are not in `seen`, and add them to it.

    Each with its verdict, 0 or 1, and the place of its domain.
    """
    verdicts = [i % 2 for i in range(size)]
    rng.shuffle(verdicts)
    drawn = []
    for verdict in verdicts:
        for _ in range(200):
            writer = _Writer(rng)
            sentence = writer.sentence(1 if verdict else -1)
            if sentence not in seen:
                break
        else:
            raise ValueError(f"The grammar ran out of new sentences after {len(seen)}.")
        seen.add(sentence)
        drawn.append((sentence, verdict, writer.place))
    return drawn


def _splits(
    train: int, validation: int, seed: int, feature: Any, label: Callable[[int, int], Any]
) -> DatasetDict:
    """Both splits; a row's label is made of its verdict and the place of its domain."""
    from datasets import Dataset, DatasetDict, Features, Value

    if train < 1 or validation < 1:
        raise ValueError(f"Both sizes must be positive, got {train=} and {validation=}.")
    seen: set[str] = set()
    splits = DatasetDict(train=None, validation=None)
    features = Features(sentence=Value("string"), label=feature)
    # Validation comes first, so that it does not depend on the size of the training split.
    for split, size in (("validation", validation), ("train", train)):
        drawn = _draw(size, Random(f"opinions-{split}-{seed}"), seen)
        columns = {
            "sentence": [sentence for sentence, _, _ in drawn],
            "label": [label(verdict, place) for _, verdict, place in drawn],
        }
        splits[split] = Dataset.from_dict(columns, features=features)
    return splits


def opinions(train: int = 6000, validation: int = 1000, seed: int = 0) -> DatasetDict:
    """Generate a balanced two-class task whose label is the writer's overall verdict.

    The same sizes and seed give the same data everywhere; no sentence occurs twice. Splits "train"
    and "validation" with the columns "sentence" (str), "label" (0 is negative, 1 is positive) and
    "idx" (int); ValueError if a size is not positive, or exceeds what the grammar can write.
    """
    from datasets import ClassLabel, Value

    verdicts = ClassLabel(names=["negative", "positive"])
    splits = _splits(train, validation, seed, verdicts, lambda verdict, _: verdict)
    for split, rows in splits.items():
        splits[split] = rows.add_column("idx", range(len(rows)), feature=Value("int32"))
    return splits


def ratings(train: int = 6000, validation: int = 1000, seed: int = 0) -> DatasetDict:
    """The opinions as a number to predict: 1 star for a negative verdict, 5 for a positive one."""
    from datasets import Value

    return _splits(train, validation, seed, Value("float32"), lambda verdict, _: 1.0 + 4 * verdict)


def topics(train: int = 6000, validation: int = 1000, seed: int = 0) -> DatasetDict:
    """The opinions with several labels, 0 or 1 for each of `TOPICS`: what they are about, and
    whether the verdict is positive.
    """
    from datasets import List, Value

    def label(verdict: int, place: int) -> list[int]:
        return [int(place == n) for n in range(len(TOPICS) - 1)] + [verdict]

    return _splits(train, validation, seed, List(Value("int8")), label)
