"""The built-in sample of text: film reviews that a small grammar generates.

Each text has a verdict. Part of the sentences state it plainly; others by negation ("far
from dull") or after a concession ("Although the music is lovely, ..."), so that counting words
does not classify every text, while word order does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lightkeras.system.messages import check_whole


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


_ADJECTIVES = (  # negative, positive
    _phrases(
        "bad, awful, terrible, dull, boring, weak, clumsy, lifeless, tedious, shallow, predictable, "
        "stale, messy, forgettable, dreadful, hollow, lazy, flat, tiresome, disappointing, silly, "
        "wooden, confusing, bland, unconvincing, pointless, sloppy, grating, dreary, cheap"
    ),
    _phrases(
        "good, great, wonderful, superb, charming, gripping, moving, clever, brilliant, delightful, "
        "fresh, funny, memorable, touching, excellent, inventive, honest, beautiful, warm, thrilling, "
        "fine, stylish, sharp, convincing, absorbing, elegant, lively, tender, rewarding, rich"
    ),
)
_NOUNS = (  # negative, positive
    _phrases("failure, mess, bore, disaster, disappointment, waste of an evening, chore, misfire"),
    _phrases("triumph, joy, treat, masterpiece, success, small wonder, pleasure, gem"),
)
_REACTIONS = (  # negative, positive
    _phrases(
        "I left before the end, I checked my watch every ten minutes, I nearly fell asleep, "
        "I regret buying the ticket, nobody in our row laughed, I could not wait for the credits, "
        "I would not sit through it again, half of the audience walked out"
    ),
    _phrases(
        "I stayed until the last credit, I forgot the time completely, I went back the next day, "
        "I would gladly pay for it twice, our whole row laughed, I did not want it to end, "
        "I would sit through it again, half of the audience was in tears"
    ),
)
_ASPECTS = _phrases(
    "acting, plot, script, dialogue, soundtrack, photography, pacing, ending, humour, editing, score, "
    "direction, cast, story, romance, villain, finale, opening, lighting, chemistry"
)
_WHOLES = _phrases("film, movie, picture, whole thing, result, experience, whole evening, production")
_PEOPLE = _phrases("my sister, my neighbour, a friend, the man beside me, my father, our teacher, the press")
_PLACES = _phrases("in a small cinema, on a long flight, at a festival, at home, in a half-empty hall, on an old disc")
_TIMES = _phrases("last night, on a rainy Tuesday, over the holidays, in March, years ago, on Friday")
_GENRES = _phrases("western, thriller, comedy, war film, musical, heist story, family drama, ghost story")
_SETTINGS = _phrases(
    "a harbour town, the far north, a boarding school, a space station, Lisbon, a mountain village, "
    "a night train, a newspaper office"
)
_HEROES = _phrases("a retired pilot, two brothers, a young nurse, a stubborn cook, a lost dog, a clockmaker")
_DEGREES = ("", "", "really ", "very ", "quite ", "truly ", "rather ", "remarkably ")

Pick = Callable[[Sequence[str]], str]


def sample_reviews(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Generates reviews, all different, half of them positive.

    Args:
        count: Number of reviews, at least 1.
        seed: Whole number of at least 0. The same `(count, seed)` gives the same texts everywhere,
            and a longer sample begins with the shorter one.

    Returns:
        Texts, object array `[count]` of UTF-8 `bytes`, and labels, int32 `[count]`: 0 negative, 1
        positive, alternating.

    Raises:
        ValueError: `count` is below 1 or `seed` below 0.

    Examples:
        >>> texts, labels = sample_reviews(4, seed=0)
        >>> labels.tolist()
        [0, 1, 0, 1]
    """
    if count < 1:
        raise ValueError(f"count={count}: expected at least 1 review.")
    check_whole("", "seed", seed, 0, numpy=True)
    draws = _uniform(np.random.default_rng(seed))
    seen: set[str] = set()
    texts = np.empty(count, dtype=object)
    for number in range(count):
        text = _review(number % 2, draws)
        while text in seen:
            text = _review(number % 2, draws)
        seen.add(text)
        texts[number] = text.encode()
    return texts, (np.arange(count) % 2).astype(np.int32)


def _uniform(generator: np.random.Generator) -> Iterator[float]:
    while True:  # in blocks: a call for each single number would take most of the time
        yield from generator.random(8192).tolist()


def _review(label: int, draws: Iterator[float]) -> str:
    def pick(options: Sequence[str]) -> str:
        return options[int(next(draws) * len(options))]

    sentences = [_verdict(label, pick, next(draws))]
    for _ in range(int(next(draws) * 5)):
        kind = next(draws)
        sentence = _filler(pick) if kind < 0.5 else _verdict(label, pick, next(draws))
        if sentence not in sentences:
            sentences.insert(int(next(draws) * (len(sentences) + 1)), sentence)
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _verdict(label: int, pick: Pick, kind: float) -> str:
    if kind < 0.73:
        return _plain(label, pick)
    if kind < 0.86:
        return _negated(label, pick)
    return _mixed(label, pick)


def _plain(label: int, pick: Pick) -> str:
    one, two = pick(_ADJECTIVES[label]), pick(_ADJECTIVES[label])
    return pick(
        (
            f"the {pick(_ASPECTS)} is {pick(_DEGREES)}{one}.",
            f"the {pick(_ASPECTS)} is {one} and the {pick(_ASPECTS)} {pick(_DEGREES)}{two}.",
            f"what a {pick(_NOUNS[label])}, and {pick(_REACTIONS[label])}.",
            f"the {pick(_WHOLES)} was {pick(_DEGREES)}{one}, and {pick(_REACTIONS[label])}.",
            f"it is a {pick(_NOUNS[label])} from start to finish.",
            f"{pick(_REACTIONS[label])}.",
        )
    )


def _negated(label: int, pick: Pick) -> str:
    other = pick(_ADJECTIVES[1 - label])
    return pick(
        (
            f"the {pick(_ASPECTS)} is not {other} at all.",
            f"the {pick(_ASPECTS)} is hardly {other}, and neither is the {pick(_ASPECTS)}.",
            f"the {pick(_WHOLES)} was far from {other}.",
            f"nobody could call the {pick(_ASPECTS)} {other}.",
            f"there is nothing {other} about the {pick(_ASPECTS)}.",
            f"{pick(_PEOPLE)} called it {other}, and I could not agree less.",
            f"I never found the {pick(_ASPECTS)} {other}, nor was it a {pick(_NOUNS[1 - label])}.",
        )
    )


def _mixed(label: int, pick: Pick) -> str:
    side, other = pick(_ADJECTIVES[label]), pick(_ADJECTIVES[1 - label])
    aspect, whole = pick(_ASPECTS), pick(_WHOLES)
    return pick(
        (
            f"although the {aspect} is {other}, the {whole} was {side}.",
            f"the {whole} was {pick(_DEGREES)}{side}, although the {aspect} is {other}.",
            f"the {aspect} is {other}, but {pick(_REACTIONS[label])}.",
            f"I had expected a {pick(_NOUNS[1 - label])}, but the {whole} was {side}.",
            f"the {whole} was {side}, even if the {aspect} is {other}.",
            f"however {other} the {aspect} may be, it is a {pick(_NOUNS[label])}.",
            f"{pick(_PEOPLE)} had promised something {other}, yet the {whole} was {side}.",
        )
    )


def _filler(pick: Pick) -> str:
    return pick(
        (
            f"I saw it {pick(_PLACES)} {pick(_TIMES)}.",
            f"it is a {pick(_GENRES)} set in {pick(_SETTINGS)}.",
            f"the story follows {pick(_HEROES)} in {pick(_SETTINGS)}.",
            f"{pick(_PEOPLE)} came along {pick(_TIMES)}.",
            f"{pick(_HEROES)} and a stranger meet in {pick(_SETTINGS)}.",
            f"the same studio made a {pick(_GENRES)} about {pick(_HEROES)} {pick(_TIMES)}.",
        )
    )
