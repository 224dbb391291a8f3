import json
from pathlib import Path
from typing import Any

import pytest

from limner.actors.generator.folder import builtin_path
from limner.actors.generator.lexicon import MODEL_WORDS
from limner.actors.generator.tokenizer import Tokenizer, split
from limner.core.errors import NotConfigured

PATH = builtin_path() / "tokenizer" / "tokenizer.json"

# What tokenizers 0.22 makes of each text, without the padding (0) that fills it up to 28 ids.
EXPECTED: list[tuple[str, tuple[int, ...]]] = [
    ("", (1, 2)),
    ("a", (1, 5, 2)),
    ("a red circle on a blue background", (1, 5, 54, 21, 47, 5, 15, 10, 2)),
    ("A RED CIRCLE", (1, 5, 54, 21, 2)),
    ("a big yellow star on a black background", (1, 5, 13, 75, 63, 47, 5, 14, 10, 2)),
    (
        "a small white cross in the top left on a red background",
        (1, 5, 60, 73, 24, 38, 66, 69, 40, 47, 5, 54, 10, 2),
    ),
    (
        "an orange square in the bottom right on a cyan background",
        (1, 7, 48, 62, 38, 66, 17, 55, 47, 5, 25, 10, 2),
    ),
    (
        "a pink heart below a white ring on a purple background",
        (1, 5, 52, 35, 12, 5, 73, 56, 47, 5, 53, 10, 2),
    ),
    (
        "a boat with a red sail on the ocean, a yellow moon behind a black mountain at night",
        (1, 5, 16, 74, 5, 54, 57, 47, 66, 45, 4, 5, 75, 42, 11, 5, 14, 43, 9, 44, 2),
    ),
    ("clouds, a desert, blue sky", (1, 22, 4, 5, 26, 4, 15, 59, 2)),
    (
        "a tree on the grass and a red sun over the grass at sunset",
        (1, 5, 70, 47, 66, 31, 8, 5, 54, 64, 49, 66, 31, 9, 65, 2),
    ),
    ("cat", (1, 3, 2)),
    ("a cat and a dog", (1, 5, 3, 8, 5, 3, 2)),
    ("red,blue", (1, 54, 4, 15, 2)),
    ("red , blue", (1, 54, 4, 15, 2)),
    ("red,,blue", (1, 54, 3, 15, 2)),
    ("red, ,blue", (1, 54, 4, 4, 15, 2)),
    ("...", (1, 3, 2)),
    ("red!!! blue??", (1, 54, 3, 15, 3, 2)),
    ("red-circle", (1, 54, 3, 21, 2)),
    ("red_circle", (1, 3, 2)),
    ("  a   red\tcircle\n", (1, 5, 54, 21, 2)),
    ("a red\xa0circle", (1, 5, 54, 21, 2)),
    ("a\u3000red circle", (1, 5, 54, 21, 2)),
    ("红色圆形", (1, 3, 2)),
    ("a 红色 circle", (1, 5, 3, 21, 2)),
    ("画一个red circle", (1, 3, 21, 2)),
    ("Straße", (1, 3, 2)),
    ("ΣΑΣ", (1, 3, 2)),
    ("İstanbul red", (1, 3, 54, 2)),
    ("étoile red", (1, 3, 54, 2)),
    ("é", (1, 3, 2)),
    ("²", (1, 3, 2)),
    ("circle2", (1, 3, 2)),
    ("2 circles", (1, 3, 3, 2)),
    ("Ⓐ red", (1, 3, 54, 2)),
    ("😀 red", (1, 3, 54, 2)),
    ("red😀blue", (1, 54, 3, 15, 2)),
    ("a\u200dred", (1, 3, 2)),
    ("\u200c", (1, 3, 2)),
    ("हिन्दी red", (1, 3, 54, 2)),
    ("red\x1cblue", (1, 54, 3, 15, 2)),
    ("\x1c", (1, 3, 2)),
    ("a.b,c;d", (1, 5, 3, 3, 4, 3, 3, 3, 2)),
    ("(a) [PAD] [UNK]", (1, 3, 5, 3, 3, 3, 3, 3, 3, 3, 2)),
    ("[EOS]", (1, 3, 3, 3, 2)),
    ("it's red", (1, 3, 3, 3, 54, 2)),
    ("“red”", (1, 3, 54, 3, 2)),
    ("red—blue", (1, 54, 3, 15, 2)),
    ("a\u200bb", (1, 5, 3, 3, 2)),
    (
        "a a a a a a a a a a a a a a a a a a a a a a a a a ",
        (1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 2),
    ),
    (
        "a a a a a a a a a a a a a a a a a a a a a a a a a a ",
        (1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 2),
    ),
    (
        "a a a a a a a a a a a a a a a a a a a a a a a a a a a red",
        (1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 2),
    ),
    (
        "red, red, red, red, red, red, red, red, red, red, red, red, red, red, ",
        (
            1,
            54,
            4,
            54,
            4,
            54,
            4,
            54,
            4,
            54,
            4,
            54,
            4,
            54,
            4,
            54,
            4,
            54,
            4,
            54,
            4,
            54,
            4,
            54,
            4,
            54,
            4,
            2,
        ),
    ),
    (
        "the sea the ocean a green field the grass a desert the snow " * 2 + "a red circle",
        (
            1,
            66,
            58,
            66,
            45,
            5,
            33,
            30,
            66,
            31,
            5,
            26,
            66,
            61,
            66,
            58,
            66,
            45,
            5,
            33,
            30,
            66,
            31,
            5,
            26,
            66,
            61,
            2,
        ),
    ),
    ("ﬁsh red", (1, 3, 54, 2)),
    ("RED STAR, BLACK BACKGROUND", (1, 54, 63, 4, 14, 10, 2)),
    ("a_b __ red", (1, 3, 3, 54, 2)),
    ("x² + y²", (1, 3, 3, 3, 3, 3, 2)),
    ("3.14", (1, 3, 3, 3, 2)),
    ("１２ red", (1, 3, 54, 2)),
    ("ⅷ red", (1, 3, 54, 2)),
    ("〇 red", (1, 3, 54, 2)),
    ("ー", (1, 3, 2)),
    ("々々 red", (1, 3, 54, 2)),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(PATH)


@pytest.fixture
def description() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return parsed


@pytest.mark.parametrize(("text", "ids"), EXPECTED)
def test_ids_are_those_of_the_tokenizers_package(
    tokenizer: Tokenizer, text: str, ids: tuple[int, ...]
) -> None:
    assert tokenizer.encode(text).ids == ids + (0,) * (28 - len(ids))


def test_words_outside_the_vocabulary_are_named_once_and_in_order(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a Cat on a red DOG, cat!").unknown == ("cat", "dog", "!")


def test_words_for_which_there_is_no_room_are_counted(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a " * 26).words_cut == 0
    assert tokenizer.encode("a " * 30).words_cut == 4


def test_marks_belong_to_words_and_ascii_separators_do_not_part_them() -> None:
    assert list(split("e\u0301t, \u0939\u093f x\x1cy")) == [
        "e\u0301t", ",", "\u0939\u093f", "x", "\x1c", "y",
    ]  # fmt: skip


def test_the_vocabulary_is_the_one_the_word_table_writes_for(description: dict[str, Any]) -> None:
    special = {"[PAD]", "[BOS]", "[EOS]", "[UNK]", ","}
    assert set(description["model"]["vocab"]) - special == MODEL_WORDS


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"type": "BPE"}}, "BPE"),
        ({"normalizer": {"type": "NFKC"}}, "NFKC"),
        ({"normalizer": None}, "damaged"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "ByteLevel"),
        ({"post_processor": {"type": "RobertaProcessing"}}, "RobertaProcessing"),
        ({"added_tokens": [{"content": "[PAD]"}]}, "added tokens"),
        ({"truncation": {"direction": "Left", "max_length": 28}}, "Left"),
        ({"truncation": {"direction": "Right", "max_length": 20}}, "20"),
        ({"truncation": None}, "damaged"),
        ({"padding": {"direction": "Right", "pad_id": 0, "strategy": "BatchLongest"}}, "damaged"),
        (
            {
                "padding": {"direction": "Right", "pad_id": 0, "strategy": {"Fixed": 2}},
                "truncation": {"direction": "Right", "max_length": 2},
            },
            "a length of 2",
        ),
    ],
)
def test_other_kinds_of_tokenizer_are_refused_by_name(
    description: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    with pytest.raises(NotConfigured, match=named) as caught:
        Tokenizer({**description, **change})
    assert "supported: a WordLevel model" in caught.value.detail


@pytest.mark.parametrize(
    ("single", "named"),
    [
        ([{"SpecialToken": {"id": "[BOS]"}}], "without the text"),
        ([{"Sequence": {"id": "A"}}, {"Sequence": {"id": "A"}}], "repeats the text"),
    ],
)
def test_odd_templates_are_refused(
    description: dict[str, Any], single: list[dict[str, Any]], named: str
) -> None:
    description["post_processor"]["single"] = single
    with pytest.raises(NotConfigured, match=named):
        Tokenizer(description)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match="cannot be read"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(NotConfigured, match="cannot be read"):
        Tokenizer.load(tmp_path / "tokenizer.json")
