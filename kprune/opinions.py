"""A small labelled text-classification task, generated from a seeded grammar.

Each sentence is a short review; its label is the writer's overall verdict. A derivation starts
from the verdict and works downwards: an operator that reverses meaning (a negation, a rejected
report, a contrast) asks its argument for the opposite sign, so the label follows from how the
sentence is put together and single words say little about it.
"""

from random import Random

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

# All adjectives are of medium strength: the denial of "dreadful" could still mean "mediocre",
# while the denial of "dull" is praise.
COMMON = {
    1: "good impressive satisfying pleasing excellent likeable memorable admirable".split(),
    -1: "bad poor disappointing unpleasant weak irritating forgettable shabby".split(),
}

# Subjects carry their verb, so that plurals agree.
DOMAINS = [
    {
        "things": ["the film", "the movie", "the thriller", "the comedy"],
        "aspects": ["the acting was", "the script was", "the music was", "the effects were"],
        "earlier": ["the first part", "the director's last work", "the original version"],
        "others": ["the cinema was", "the popcorn was", "the trailers before it were"],
        "facts": ["it runs for two hours", "it was shot in Spain", "I saw it on a Tuesday"],
        1: "gripping moving funny clever original lively".split(),
        -1: "dull tedious predictable clumsy lifeless silly".split(),
        "praise": ["see it again", "recommend it to my friends", "buy the disc"],
        "blame": ["leave before the end", "ask for my money back", "warn my friends about it"],
    },
    {
        "things": ["the phone", "the handset", "the device", "this model"],
        "aspects": ["the screen was", "the camera was", "the battery was", "the speakers were"],
        "earlier": ["my previous phone", "last year's model", "the one I had before"],
        "others": ["the shop was", "the delivery service was", "the packaging was"],
        "facts": ["it comes in three colours", "I bought it in May", "it weighs 180 grams"],
        1: "reliable fast sturdy handy responsive elegant".split(),
        -1: "unreliable slow flimsy awkward sluggish ugly".split(),
        "praise": ["buy it again", "recommend it to my family", "order a second one"],
        "blame": ["send it back", "ask for a refund", "warn other buyers about it"],
    },
    {
        "things": ["the restaurant", "the bistro", "the meal", "our dinner"],
        "aspects": ["the soup was", "the service was", "the wine was", "the desserts were"],
        "earlier": ["the place next door", "our dinner at their other branch", "the old place"],
        "others": ["the taxi ride was", "the weather was", "the show we saw afterwards was"],
        "facts": ["we were a party of six", "we went on a Friday", "they open at seven"],
        1: "delightful enjoyable relaxing inviting refined charming".split(),
        -1: "dismal bland stressful joyless sloppy dreary".split(),
        "praise": ["go back next week", "recommend it to my colleagues", "leave a large tip"],
        "blame": ["complain to the manager", "refuse to pay", "warn my colleagues about it"],
    },
    {
        "things": ["the book", "the novel", "the story", "the paperback"],
        "aspects": ["the plot was", "the dialogue was", "the ending was", "the characters were"],
        "earlier": ["the author's first book", "the previous volume", "the book I read before"],
        "others": ["the bookshop was", "the film version was", "the reviews on the cover were"],
        "facts": ["it has forty chapters", "it is set in Norway", "I read it on the train"],
        1: "absorbing witty thoughtful readable vivid touching".split(),
        -1: "boring shallow long-winded unreadable flat confusing".split(),
        "praise": ["read it again", "recommend it to my book club", "give it as a present"],
        "blame": ["give up halfway", "throw it away", "warn other readers about it"],
    },
    {
        "things": ["the hotel", "the guesthouse", "the inn", "our stay"],
        "aspects": ["the breakfast was", "the bed was", "the view was", "the staff were"],
        "earlier": ["the hotel we used last year", "our last stay", "the place we tried first"],
        "others": ["the flight was", "the booking site was", "the town was"],
        "facts": ["we stayed for four nights", "it has ninety rooms", "we arrived by train"],
        1: "comfortable pleasant restful welcoming cosy peaceful".split(),
        -1: "uncomfortable grim noisy cheerless gloomy tiring".split(),
        "praise": ["book it again", "recommend it to anyone", "stay for another week"],
        "blame": ["check out early", "demand a discount", "warn other travellers about it"],
    },
]

PEOPLE = "my brother|my sister|my neighbour|a colleague|a critic|my uncle|an old friend".split("|")

# Every operator is (text, sign); -1 means that it reverses its argument.
DEGREES = [
    ("{a}", 1),
    ("undeniably {a}", 1),
    ("nothing if not {a}", 1),
    ("not at all {a}", -1),
    ("anything but {a}", -1),
    ("far from {a}", -1),
    ("hardly {a}", -1),
    ("never {a}", -1),
    ("in no way {a}", -1),
]
CLAIMS = [
    ("I cannot deny that {s}", 1),
    ("no one could deny that {s}", 1),
    ("there is no doubt that {s}", 1),
    ("I was right to think that {s}", 1),
    ("I was wrong to doubt that {s}", 1),
    ("you will not hear me dispute that {s}", 1),
    ("no one could claim that {s}", -1),
    ("I cannot say that {s}", -1),
    ("it is simply not true that {s}", -1),
    ("I was wrong to think that {s}", -1),
    ("I was right to doubt that {s}", -1),
    ("you will not hear me say that {s}", -1),
]
REPORTS = [
    ("{p} told me that {s}, and I could not agree more", 1),
    ("{p} told me that {s}, and I could not agree less", -1),
    ("{p} warned me that {s}, which is exactly what I found", 1),
    ("{p} insisted that {s}, which is not what I found at all", -1),
    ("{p} said that {s}, and I see no reason to argue", 1),
    ("{p} said that {s}, and I do not believe a word of it", -1),
    ("I did not believe {p}, who said that {s}, but it turned out to be true", 1),
    ("I believed {p}, who said that {s}, but it turned out to be false", -1),
    ("{p} was right to say that {s}", 1),
    ("{p} was wrong to say that {s}", -1),
    ("{p} was wrong to deny that {s}", 1),
    ("I expected to find that {s}, and I was not mistaken", 1),
    ("I expected to find that {s}, but I was mistaken", -1),
]
PARALLELS = [
    ("{e} was {a}, and the same goes for {t}", 1),
    ("{e} was {a}, but the same cannot be said of {t}", -1),
    ("{e} was {a}, and {t} is no different", 1),
    ("{e} was {a}, whereas {t} is quite the opposite", -1),
    ("{t} is just like {e}, which was {a}", 1),
    ("{t} is the exact opposite of {e}, which was {a}", -1),
]
ACTIONS = [
    ("I would gladly {v}", 1),
    ("I have every reason to {v}", 1),
    ("nothing will stop me if I want to {v}, and I do", 1),
    ("I would never {v}", -1),
    ("I see no reason to {v}", -1),
    ("nothing could make me {v}", -1),
]
# {m} carries the verdict, {c} is granted against it.
CONTRASTS = [
    "although {c}, {m}",
    "{m}, although {c}",
    "{c}, but {m}",
    "{m}, even if {c}",
    "granted, {c}; all the same, {m}",
    "{m}, and the fact that {c} does not change my mind",
]
# {o} concerns something else and has a sign of its own.
ASIDES = ["{o}, but that is another matter: {m}", "{m} ({o}, by the way)", "{o}; as for my topic, {m}"]
