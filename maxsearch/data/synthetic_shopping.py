"""What sellers write and what shoppers type and click in the synthetic catalogue.

Every attribute value has several words, of which seller and shopper choose on their own, so that matching words finds
only a part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from maxsearch.data.synthetic_drawing import Look

# fmt: off
_BRANDS = (
    "norvik", "quellan", "brimsa", "oltrene", "fenwyck", "zaruna", "halvex",
    "mirodo", "kestrine", "lumaro", "dovika", "pelgrin", "sorvane", "tarnix",
    "ulvedo", "wexora", "yarlin", "corvessa", "ebrinda", "jastova",
)
# fmt: on

# field -> value -> words, the most frequent one first. No word stands for two values.
VOCABULARY: dict[str, dict[str, tuple[str, ...]]] = {
    "brand": {name: (name,) for name in _BRANDS},
    "shape": {
        "bag": ("bag", "tote", "handbag"),
        "bottle": ("bottle", "flask"),
        "chair": ("chair", "seat"),
        "clock": ("clock", "timepiece"),
        "cup": ("cup", "mug"),
        "hat": ("hat", "cap"),
        "lamp": ("lamp", "light"),
        "ring": ("ring", "band"),
        "shoe": ("shoe", "sneaker", "trainer"),
        "star": ("star", "ornament"),
        "table": ("table", "desk"),
        "umbrella": ("umbrella", "parasol"),
    },
    "colour": {
        "red": ("red", "crimson"),
        "orange": ("orange", "tangerine"),
        "yellow": ("yellow", "lemon"),
        "green": ("green", "emerald"),
        "turquoise": ("turquoise", "teal"),
        "blue": ("blue", "cobalt"),
        "purple": ("purple", "violet"),
        "pink": ("pink", "rose"),
        "brown": ("brown", "chocolate"),
        "black": ("black", "ebony"),
        "grey": ("grey", "gray"),
        "white": ("white", "ivory"),
    },
    "material": {
        "metal": ("metal", "steel", "metallic"),
        "wood": ("wooden", "wood", "oak"),
        "glass": ("glass", "crystal"),
        "fabric": ("fabric", "cloth", "woven"),
        "leather": ("leather", "hide"),
        "plastic": ("plastic", "acrylic"),
    },
    "pattern": {
        "plain": ("plain", "solid"),
        "striped": ("striped", "stripy"),
        "dotted": ("dotted", "spotted"),
        "checked": ("checked", "plaid", "gingham"),
        "zigzag": ("zigzag", "chevron"),
    },
}
FIELDS = tuple(VOCABULARY)
VALUES = {name: tuple(values) for name, values in VOCABULARY.items()}

_SELLER_FIRST, _SHOPPER_FIRST = 0.7, 0.6  # how often each uses a value's first word
_LINES = ("Alto", "Brisk", "Cadenza", "Delta", "Fjord", "Lyra", "Nova", "Orbit", "Piko", "Vela")
_NOISE = ("new", "gift", "sale", "original", "premium", "M", "XL", "30cm", "set", "2-pack", "boxed", "limited")

SILENT_SELLERS = 0.4
_SILENT_ON_BOTH = 0.65  # of the silent sellers: neither colour nor shape

# A title is a row of pieces; a piece whose field the seller leaves out takes its joining word along.
_TITLES: tuple[tuple[tuple[str, str], ...], ...] = (
    (("", "brand"), ("", "pattern"), ("", "colour"), ("", "material"), ("", "shape")),
    (("", "brand"), ("", "colour"), ("", "pattern"), ("", "material"), ("", "shape")),
    (("", "colour"), ("", "material"), ("", "shape"), ("", "pattern"), ("by", "brand")),
    (("", "pattern"), ("", "material"), ("", "shape"), ("in", "colour"), ("-", "brand")),
    (("", "brand"), ("", "shape"), ("-", "colour"), ("", "pattern"), ("", "material")),
    (("", "material"), ("", "shape"), ("from", "brand"), ("-", "pattern"), ("", "colour")),
)

Intent = tuple[tuple[str, str], ...]  # what a shopper wants: (field, value) pairs in the order of FIELDS

_INTENTS: dict[tuple[str, ...], float] = {
    ("shape",): 0.06,
    ("shape", "colour"): 0.32,
    ("shape", "material"): 0.11,
    ("shape", "pattern"): 0.11,
    ("shape", "colour", "material"): 0.15,
    ("shape", "colour", "pattern"): 0.13,
    ("brand", "shape"): 0.08,
    ("colour", "material"): 0.04,
}
_UNSAID_PLAIN = 0.75  # how often a shopper who wants a plain thing does not say so


@dataclass(frozen=True)
class TitleWord:
    """A word of a title: characters [start, end), and what it names.

    Attributes:
      word: in lower case.
      start: its first character in the title.
      end: one past its last character.
      object: position among the drawn objects; None when the picture does not show what it says.
      field: the attribute it states, "size" for small; empty when object is None.
    """

    word: str
    start: int
    end: int
    object: int | None = None
    field: str = ""


@dataclass
class Title:
    """A title under construction."""

    text: str = ""
    words: list[TitleWord] = field(default_factory=list)

    def add(self, word: str, named: int | None = None, of_field: str = "") -> None:
        """Appends a word, which names a drawn object or nothing."""
        start = len(self.text) + bool(self.text)
        self.text += (" " if self.text else "") + word
        if word != "-":
            self.words.append(TitleWord(word.lower(), start, len(self.text), named, of_field))


def _word(name: str, value: str, first: float, rng: np.random.Generator) -> str:
    words = VOCABULARY[name][value]
    if len(words) == 1 or rng.random() < first:
        return words[0]
    return words[int(rng.integers(1, len(words)))]


def _left_out(rng: np.random.Generator) -> set[str]:
    """The fields a seller leaves out."""
    if rng.random() >= SILENT_SELLERS:
        return set()
    both = rng.random() < _SILENT_ON_BOTH
    left_out = {"colour", "shape"} if both else {("colour", "shape")[int(rng.integers(2))]}
    return left_out | {name for name in ("material", "pattern") if rng.random() < (0.8 if both else 0.5)}


def write_title(values: dict[str, str], others: Sequence[Look], rng: np.random.Generator) -> Title:
    """A seller's title.

    Args:
      values: the main object's value of each field.
      others: the secondary objects, drawn as objects 1, 2, ...
      rng: the seller's mood.
    """
    left_out = _left_out(rng)
    if values["pattern"] == "plain" and rng.random() < 0.85:
        left_out = left_out | {"pattern"}
    recase = {0: str.title, 1: str.lower}.get(int(rng.integers(4)), str)
    title = Title()
    for joint, name in _TITLES[int(rng.integers(len(_TITLES)))]:
        if name in left_out:
            continue
        if joint and title.text:
            title.add(joint)
        word = _word(name, values[name], _SELLER_FIRST, rng)
        if name == "brand":
            title.add(recase(word.capitalize()))
        else:
            title.add(recase(word), 0, name)
    if others and not left_out & {"colour", "shape"} and rng.random() < 0.5:
        index = int(rng.integers(len(others)))
        for word in ("with", "a"):
            title.add(word)
        title.add("small", index + 1, "size")
        for name, value in (("colour", others[index].colour), ("shape", others[index].shape)):
            title.add(recase(_word(name, value, _SELLER_FIRST, rng)), index + 1, name)
    if rng.random() < 0.35 or len(title.words) == 1:
        title.add(recase(_LINES[int(rng.integers(len(_LINES)))]))
        title.add(str(int(rng.integers(10, 100))))
    for word in rng.permutation(_NOISE)[: int(rng.integers(0, 3))]:
        title.add(recase(str(word)))
    return title


def is_silent(title: Title) -> bool:
    """Whether no word of the title tells a colour or a shape."""
    return not any(word.field in ("colour", "shape") for word in title.words)


def draw_intent(values: dict[str, str], rng: np.random.Generator) -> Intent:
    """What a shopper who would be happy with a product of these values asks for."""
    kinds = list(_INTENTS)
    wanted = kinds[int(rng.choice(len(kinds), p=list(_INTENTS.values())))]
    if values["pattern"] == "plain" and rng.random() < _UNSAID_PLAIN:
        wanted = tuple(name for name in wanted if name != "pattern")
    return tuple((name, values[name]) for name in FIELDS if name in wanted)


def write_query(intent: Intent, rng: np.random.Generator) -> str:
    """Words a shopper might type for an intent, in lower case."""
    words = {name: _word(name, value, _SHOPPER_FIRST, rng) for name, value in intent}
    before, after = [], []
    if "shape" in words:
        if rng.random() < 0.35:
            words["shape"] += "s"
        style = rng.random()
        if "colour" in words and style < 0.2:
            after = ["in", words.pop("colour")]
        elif "material" in words and style > 0.9:
            words.pop("material")
            after = ["made", "of", dict(intent)["material"]]
        elif "brand" in words and style < 0.2:
            after = ["by", words.pop("brand")]
    if rng.random() < 0.06:
        before = [("cheap", "nice", "best")[int(rng.integers(3))]]
    adjectives = [words[name] for name in ("brand", "pattern", "colour", "material") if name in words]
    if len(adjectives) > 1 and rng.random() < 0.3:
        adjectives.reverse()
    return " ".join([*before, *adjectives, *([words["shape"]] if "shape" in words else []), *after])


class Shelf:
    """A set of products, by attribute values.

    Args:
      codes: position of each product's value in VALUES, columns in the order of FIELDS.
    """

    def __init__(self, codes: np.ndarray) -> None:
        self._codes = codes

    def values(self, row: int) -> dict[str, str]:
        """A product's value of each field."""
        return {name: VALUES[name][code] for name, code in zip(FIELDS, self._codes[row], strict=True)}

    def grades(self, intent: Intent) -> np.ndarray:
        """int8 [N]: 2 = all that is wanted, 1 = the wanted shape and exactly one other wish unmet, 0 = neither."""
        unmet = np.zeros(len(self._codes), dtype=np.int8)
        right_shape = np.zeros(len(self._codes), dtype=bool)
        for name, value in intent:
            met = self._codes[:, FIELDS.index(name)] == VALUES[name].index(value)
            unmet += ~met
            if name == "shape":
                right_shape = met
        return np.where(unmet == 0, 2, np.where((unmet == 1) & right_shape, 1, 0)).astype(np.int8)
