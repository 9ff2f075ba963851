"""A small labelled text-classification task, generated from a seeded grammar.

Each sentence is a short review; its label is the writer's overall verdict. A derivation starts
from the verdict and works downwards: an operator that reverses meaning (a negation, a rejected
report, a contrast) asks its argument for the opposite sign, so the label follows from how the
sentence is put together and single words say little about it.
"""

from random import Random

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value


def _words(text: str) -> list[str]:
    return text.split(", ")


# All adjectives are of medium strength: the denial of "dreadful" could still mean "mediocre",
# while the denial of "dull" is praise.
COMMON = {
    1: _words("good, impressive, satisfying, pleasing, appealing, likeable, memorable, admirable"),
    -1: _words("bad, poor, disappointing, unpleasant, weak, irritating, forgettable, mediocre"),
}

# Subjects carry their verb, so that plurals agree.
DOMAINS = [
    {
        "things": _words("the film, the movie, the thriller, the comedy"),
        "aspects": _words("the acting was, the script was, the music was, the effects were"),
        "earlier": _words("the first part, the director's last work, the original version"),
        "others": _words("the cinema was, the popcorn was, the trailers before it were"),
        "facts": _words("it runs for two hours, it was shot in Spain, I saw it on a Tuesday"),
        1: _words("gripping, moving, funny, clever, original, lively"),
        -1: _words("dull, tedious, predictable, clumsy, lifeless, silly"),
        "praise": _words("see it again, recommend it to my friends, sit through it twice"),
        "blame": _words("leave before the end, ask for my money back, warn my friends about it"),
    },
    {
        "things": _words("the phone, the handset, the device, this model"),
        "aspects": _words("the screen was, the camera was, the battery was, the speakers were"),
        "earlier": _words("my previous phone, last year's model, the one I had before"),
        "others": _words("the shop was, the delivery service was, the packaging was"),
        "facts": _words("it comes in three colours, I bought it in May, it weighs 180 grams"),
        1: _words("reliable, fast, sturdy, handy, responsive, elegant"),
        -1: _words("unreliable, slow, flimsy, awkward, sluggish, ugly"),
        "praise": _words("buy it again, recommend it to my family, stay with this brand"),
        "blame": _words("send it back, ask for a refund, warn other buyers about it"),
    },
    {
        "things": _words("the restaurant, the bistro, the meal, our dinner"),
        "aspects": _words("the soup was, the service was, the wine was, the desserts were"),
        "earlier": _words("the place next door, our dinner at their other branch, the old place"),
        "others": _words("the taxi ride was, the weather was, the show we saw afterwards was"),
        "facts": _words("we were a party of six, we went on a Friday, they open at seven"),
        1: _words("delightful, enjoyable, relaxing, inviting, refined, charming"),
        -1: _words("dismal, bland, stressful, joyless, sloppy, dreary"),
        "praise": _words("go back next week, recommend it to my colleagues, leave a large tip"),
        "blame": _words("complain to the chef, cancel our next booking, warn my colleagues off"),
    },
    {
        "things": _words("the book, the novel, the story, the paperback"),
        "aspects": _words("the plot was, the dialogue was, the ending was, the characters were"),
        "earlier": _words("the author's first book, the previous volume, the book I read before"),
        "others": _words("the bookshop was, the film version was, the reviews on the cover were"),
        "facts": _words("it has forty chapters, it is set in Norway, I read it on the train"),
        1: _words("absorbing, witty, thoughtful, readable, vivid, touching"),
        -1: _words("boring, shallow, long-winded, unreadable, flat, confusing"),
        "praise": _words("read it again, recommend it to my book club, keep it on my shelf"),
        "blame": _words("give up halfway, throw it away, warn other readers about it"),
    },
    {
        "things": _words("the hotel, the guesthouse, the inn, the lodge"),
        "aspects": _words("the breakfast was, the bed was, the view was, the staff were"),
        "earlier": _words("the hotel we used last year, our last stay, the place we tried first"),
        "others": _words("the flight was, the booking site was, the town was"),
        "facts": _words("we stayed for four nights, it has ninety rooms, we arrived by train"),
        1: _words("comfortable, pleasant, restful, welcoming, cosy, peaceful"),
        -1: _words("uncomfortable, grim, noisy, cheerless, gloomy, cramped"),
        "praise": _words("book it again, recommend it to anyone, stay for another week"),
        "blame": _words("check out early, demand a discount, warn other travellers about it"),
    },
]

PEOPLE = _words("my brother, my sister, my neighbour, my boss, the critic, my uncle, my friend")

# Operators: those under 1 keep the sign of their argument, those under -1 reverse it.
DEGREES = {
    1: _words("{a}, very {a} indeed, remarkably {a}, nothing if not {a}"),
    -1: _words("not at all {a}, anything but {a}, far from {a}, hardly {a}, never {a}"),
}
# Below another operator only these stay clear: "no one could say it was very dull" is no praise.
EMBEDDED_DEGREES = {1: ["{a}"], -1: ["anything but {a}", "far from {a}"]}
IMPERSONAL = {
    1: _words("no one could deny that {s}, there is no doubt that {s}"),
    -1: _words("no one could claim that {s}, it is simply not true that {s}"),
}
PERSONAL = {
    1: _words(
        "I cannot deny that {s}, I was right to think that {s}, I was wrong to doubt that {s}, "
        "it would be foolish to dispute that {s}, you will not hear me dispute that {s}"
    ),
    -1: _words(
        "I cannot say that {s}, I was wrong to think that {s}, I was right to doubt that {s}, "
        "it would be foolish to pretend that {s}, you will not hear me say that {s}"
    ),
}
REPORTS = {
    1: [
        "{p} told me that {s}, and I could not agree more",
        "{p} assured me that {s}, which is exactly what I found",
        "{p} said that {s}, and I see no reason to argue",
        "I did not believe {p}, who said that {s}, until it turned out to be true",
        "{p} was right to say that {s}",
        "I had read that {s}, which proved to be correct",
    ],
    -1: [
        "{p} told me that {s}, and I could not agree less",
        "{p} assured me that {s}, which is not what I found at all",
        "{p} said that {s}, and I do not believe a word of it",
        "I believed {p}, who said that {s}, until it turned out to be false",
        "{p} was wrong to say that {s}",
        "I had read that {s}, which proved to be wrong",
    ],
}
PARALLELS = {
    1: [
        "{e} was {a}, and the same goes for {t}",
        "{e} was {a}, and {t} was no different",
        "{t} was just like {e}, which was {a}",
    ],
    -1: [
        "{e} was {a}, but the same cannot be said of {t}",
        "{e} was {a}, whereas {t} was quite the opposite",
        "{t} was the exact opposite of {e}, which was {a}",
    ],
}
ACTIONS = {
    1: _words("I would gladly {v}, I have every reason to {v}, it often made me want to {v}"),
    -1: _words("I see no reason to {v}, I am not tempted to {v}, it never made me want to {v}"),
}
# Two opposite judgements: under 1 the writer adopts {a}, under -1 {b}.
DISPUTES = {
    1: [
        "{p} found {t} {a} and {q} found it {b}, and I side with {p}",
        "{p} called {t} {a} and {q} called it {b}, and it is {q} who is mistaken",
    ],
    -1: [
        "{p} found {t} {a} and {q} found it {b}, and I side with {q}",
        "{p} called {t} {a} and {q} called it {b}, and it is {p} who is mistaken",
    ],
}
WEIGHINGS = {
    1: [
        "{x} {a} and {y} {b}, and I judge it by {x} alone",
        "{x} {a} and {y} {b}, but I do not judge it by {y}",
    ],
    -1: [
        "{x} {a} and {y} {b}, and I judge it by {y} alone",
        "{x} {a} and {y} {b}, but I do not judge it by {x}",
    ],
}
# {m} carries the verdict, {c} is granted against it.
CONTRASTS = [
    "although {c}, {m}",
    "{m}, although {c}",
    "{c}, but {m}",
    "{m}, even if {c}",
    "granted, {c}; all the same, {m}",
    "despite the fact that {c}, {m}",
]
# {o} concerns something else and has a sign of its own; {f} is a neutral fact.
ASIDES = [
    "{o}, but that is another matter; {m}",
    "leaving aside that {o}, {m}",
    "{m}; {o}, but that is another matter",
]
FACTS = ["{f}, by the way; {m}", "{m}; {f}, by the way", "{m}, and {f}"]
# Odds of an operator that keeps the sign. At even odds no word would say anything about the
# label, and an encoder would take long to find a first hold.
KEEP = 0.8
FRAMES = ("plain", "contrast", "contrast", "aside", "fact", "choice", "choice")


class _Writer:
    """Writes one sentence about one thing; every method returns text that means `sign`."""

    def __init__(self, rng: Random):
        self.rng = rng
        self.domain = rng.choice(DOMAINS)
        self.thing = rng.choice(self.domain["things"])

    def pick(self, operators: dict[int, list[str]]) -> tuple[str, int]:
        """Draw the direction first, so that the size of a table's halves does not matter."""
        sign = 1 if self.rng.random() < KEEP else -1
        return self.rng.choice(operators[sign]), sign

    def adjective(self, sign: int, common: bool = False) -> str:
        return self.rng.choice(COMMON[sign] if common else COMMON[sign] + 4 * self.domain[sign])

    def quality(self, sign: int, degrees: dict, common: bool = False) -> str:
        text, flip = self.pick(degrees)
        return text.format(a=self.adjective(sign * flip, common))

    def claim(self, sign: int, degrees: dict) -> str:
        return f"{self.thing} was {self.quality(sign, degrees)}"

    def wrapped(self, sign: int, operators: dict) -> str:
        text, flip = self.pick(operators)
        return text.format(s=self.claim(sign * flip, EMBEDDED_DEGREES))

    def report(self, sign: int) -> str:
        text, flip = self.pick(REPORTS)
        sign *= flip
        nested = self.rng.random() < 0.3
        inner = self.wrapped(sign, IMPERSONAL) if nested else self.claim(sign, EMBEDDED_DEGREES)
        return text.format(p=self.rng.choice(PEOPLE), s=inner)

    def parallel(self, sign: int) -> str:
        text, flip = self.pick(PARALLELS)
        quality = self.quality(sign * flip, EMBEDDED_DEGREES)
        return text.format(e=self.rng.choice(self.domain["earlier"]), a=quality, t=self.thing)

    def action(self, sign: int) -> str:
        text, flip = self.pick(ACTIONS)
        return text.format(v=self.rng.choice(self.domain["praise" if sign * flip > 0 else "blame"]))

    def dispute(self, sign: int) -> str:
        text, flip = self.pick(DISPUTES)
        p, q = self.rng.sample(PEOPLE, 2)
        a, b = (self.quality(s, EMBEDDED_DEGREES) for s in (sign * flip, -sign * flip))
        return text.format(p=p, q=q, t=self.thing, a=a, b=b)

    def weighing(self, sign: int) -> str:
        text, flip = self.pick(WEIGHINGS)
        (x, a), (y, b) = (s.rsplit(" ", 1) for s in self.rng.sample(self.domain["aspects"], 2))
        a += " " + self.quality(sign * flip, EMBEDDED_DEGREES, common=True)
        b += " " + self.quality(-sign * flip, EMBEDDED_DEGREES, common=True)
        return text.format(x=x, a=a, y=y, b=b)

    def verdict(self, sign: int) -> str:
        kind = self.rng.choice(("claim", "personal", "impersonal", "report", "parallel", "action"))
        if kind == "claim":
            return self.claim(sign, DEGREES)
        if kind in ("personal", "impersonal"):
            return self.wrapped(sign, PERSONAL if kind == "personal" else IMPERSONAL)
        return getattr(self, kind)(sign)

    def framed(self, frame: str, main: str, sign: int) -> str:
        choice, domain = self.rng.choice, self.domain
        if frame == "contrast":
            granted = f"{choice(domain['aspects'])} {self.quality(-sign, DEGREES, common=True)}"
            return choice(CONTRASTS).format(c=granted, m=main)
        if frame == "aside":
            other = f"{choice(domain['others'])} {self.quality(choice((1, -1)), DEGREES, True)}"
            return choice(ASIDES).format(o=other, m=main)
        if frame == "fact":
            return choice(FACTS).format(f=choice(domain["facts"]), m=main)
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


def _split(size: int, rng: Random, seen: set[str]) -> Dataset:
    """Draw `size` sentences that are not in `seen`, and add them to it."""
    labels = [i % 2 for i in range(size)]
    rng.shuffle(labels)
    sentences = []
    for label in labels:
        for _ in range(200):
            sentence = _Writer(rng).sentence(1 if label else -1)
            if sentence not in seen:
                break
        else:
            raise ValueError(f"The grammar ran out of new sentences after {len(seen)}.")
        seen.add(sentence)
        sentences.append(sentence)
    verdicts = ClassLabel(names=["negative", "positive"])
    features = Features(sentence=Value("string"), label=verdicts, idx=Value("int32"))
    columns = {"sentence": sentences, "label": labels, "idx": list(range(size))}
    return Dataset.from_dict(columns, features=features)


def opinions(train: int = 6000, validation: int = 1000, seed: int = 0) -> DatasetDict:
    """Generate a balanced two-class task whose label is the writer's overall verdict.

    Args:
        train (int): number of training sentences.
        validation (int): number of validation sentences; none of them is a training sentence.
        seed (int): seed of the grammar; the same arguments give the same data everywhere.

    Returns:
        datasets.DatasetDict: splits "train" and "validation" with the columns "sentence" (str),
            "label" (0 is negative, 1 is positive) and "idx" (int).

    Raises:
        ValueError: if a size is not positive, or exceeds what the grammar can write.
    """
    if train < 1 or validation < 1:
        raise ValueError(f"Both sizes must be positive, got {train=} and {validation=}.")
    seen: set[str] = set()
    # Validation comes first, so that it does not depend on the size of the training split.
    held_out = _split(validation, Random(f"opinions-validation-{seed}"), seen)
    return DatasetDict(
        train=_split(train, Random(f"opinions-train-{seed}"), seen), validation=held_out
    )


def ratings(train: int = 6000, validation: int = 1000, seed: int = 0) -> DatasetDict:
    """The opinions as stars, a number to predict: 1 for a negative verdict, 5 for a positive one.

    Args:
        train: sentences in the training split.
        validation: sentences in the validation split; none of them occurs in the other.
        seed: of the generator.
    """
    features = Features({"sentence": Value("string"), "label": Value("float32")})

    def stars(rows: Dataset) -> Dataset:
        columns = {"sentence": rows["sentence"][:], "label": [1.0 + 4 * v for v in rows["label"]]}
        return Dataset.from_dict(columns, features=features)

    found = opinions(train, validation, seed)
    return DatasetDict({split: stars(rows) for split, rows in found.items()})
