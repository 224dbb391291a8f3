import random

import pytest

from limner.actors.generator.lexicon import LEXICON, MODEL_WORDS, UNTRAINED
from limner.actors.generator.tokenizer import split
from limner.actors.generator.words import Translation, translate

SINGLES = [
    ("蓝色背景上的红色圆形", "a red circle on a blue background"),
    ("红色圆形在蓝色背景上", "a red circle on a blue background"),
    ("藍色背景上的紅色圓形", "a red circle on a blue background"),
    ("在蓝色背景上画一个红色的圆", "a red circle on a blue background"),
    ("画一个红色的圆形，背景是蓝色", "a red circle on a blue background"),
    ("圆形红色，背景蓝色。", "a red circle on a blue background"),
    ("红色，圆形，蓝底", "a red circle on a blue background"),
    ("画一个 red circle 在 blue background 上", "a red circle on a blue background"),
    ("白底黑色三角形", "a black triangle on a white background"),
    ("粉色背景上有一颗紫色的心形", "a purple heart on a pink background"),
    (
        "左上角一个小的白色十字，红色背景",
        "a small white cross in the top left on a red background",
    ),
    (
        "右下角的橙色正方形，青色背景",
        "an orange square in the bottom right on a cyan background",
    ),
    (
        "蓝色背景的左下角有一颗小小的黄色星星",
        "a small yellow star in the bottom left on a blue background",
    ),
    ("红色圆形在蓝色背景的左上角", "a red circle in the top left on a blue background"),
    ("红色圆形在上，白色背景", "a red circle in the top on a white background"),
    ("红色圆形在右边，白色背景", "a red circle in the right on a white background"),
    ("黄色背景中间有一个很大的黑色菱形", "a big black diamond on a yellow background"),
    ("蓝色背景里的红色圆形", "a red circle on a blue background"),
    ("夜空中的黄色星星", "a yellow star on a black background"),
    ("灰色的圆环，棕色背景", "a gray ring on a brown background"),
    ("圆形，大的，红色，在白色背景上", "a big red circle on a white background"),
    ("天空上的红色爱心", "a red heart on a blue background"),
]

PAIRS = [
    (
        "紅色圓形在藍色方塊上面，白色背景",
        "a red circle above a blue square on a white background",
    ),
    ("红色圆形在蓝色方块的左边", "a red circle to the left of a blue square"),
    ("蓝色方块左边的红色圆形", "a red circle to the left of a blue square"),
    ("蓝色方块的左边有一个红色圆形", "a red circle to the left of a blue square"),
    ("红色圆形下面是一个蓝色方块", "a blue square below a red circle"),
    ("红色圆形上的蓝色方块", "a blue square above a red circle"),
    ("左边是红色圆形，右边是蓝色方块", "a red circle to the left of a blue square"),
    ("红色圆形在右，蓝色方块在左", "a red circle to the right of a blue square"),
    ("上面是红色圆形，下面是蓝色方块", "a red circle above a blue square"),
    ("下面是红色圆形，上面是蓝色方块", "a red circle below a blue square"),
    ("红色圆形和蓝色方块", "a red circle to the left of a blue square"),
    ("红色圆形左上角的蓝色方块", "a blue square to the left of a red circle"),
    ("红色圆形在蓝色方块后面", "a red circle above a blue square"),
]

SCENES = [
    ("绿色山上的黄色太阳", "a yellow sun above a green mountain"),
    ("绿色的山上面有一个黄色的太阳", "a yellow sun above a green mountain"),
    ("黃色月亮在黑色山的上面", "a yellow moon above a black mountain"),
    ("夜晚的大海和白色的月亮", "a white moon over the sea at night"),
    ("月亮在大海上，夜晚", "a white moon over the sea at night"),
    ("沙漠上空的橙色太阳", "an orange sun over a desert"),
    ("夕阳下的大海", "a yellow sun over the sea at sunset"),
    ("日落", "the sea at sunset"),
    ("太阳", "a yellow sun over the sea"),
    ("青山", "a green mountain and the grass"),
    ("红色和黑色的山，黄色的月亮", "a yellow moon above a black mountain"),
    (
        "红山和黑山，黄色的月亮",
        "a yellow moon above a red mountain and a black mountain",
    ),
    ("大海上有一艘白帆的船", "a boat with a white sail on the sea"),
    ("黑色的船", "a boat with a black sail on the sea"),
    ("一棵红色的树", "a red tree on the grass"),
    ("草地上的红色房子和一棵树，日落", "a red house and a tree on the grass at sunset"),
    (
        "雪地上有一座粉色的房子和一棵树，阴天",
        "a pink house and a tree on the snow under a gray sky",
    ),
    ("蓝天下的绿色草地上有一棵树", "a tree on the grass under a blue sky"),
    ("蓝天白云下的沙漠", "clouds and a desert under a blue sky"),
    ("灰色天空，大海", "the sea under a gray sky"),
    ("天空是灰色，大海", "the sea under a gray sky"),
    ("天空，大海", "the sea under a blue sky"),
    ("大海上的黄色星星，夜晚", "the sea at night"),
    ("大海上的黄色星星", "a yellow star over the sea"),
]


@pytest.mark.parametrize(("prompt", "told"), [*SINGLES, *SCENES])
def test_chinese_is_said_again_in_the_grammar_of_the_model(prompt: str, told: str) -> None:
    assert translate(prompt) == Translation(told)


@pytest.mark.parametrize(("prompt", "told"), PAIRS)
def test_chinese_relations_are_turned_round_where_english_says_them_so(
    prompt: str, told: str
) -> None:
    background = "" if "background" in told else " on a white background"
    assert translate(prompt) == Translation(told + background)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a ring", "an orange ring on a white background"),
        ("there's a big heart", "a big red heart on a white background"),
        ("blue", "a blue background"),
        ("a white star", "a white star on a black background"),
        ("a white star and a black ring", "a white star to the left of a black ring on a blue"),
        ("a circle on a red background", "a white circle on a red background"),
        ("a red circle and a blue square", "a red circle to the left of a blue square"),
        (
            "a red circle in the top left and a blue square in the bottom left",
            "a red circle above a blue square",
        ),
        (
            "the background is blue and the circle is red",
            "a red circle on a blue background",
        ),
        ("in the top left, a red heart, white", "a red heart in the top left on a white"),
        (
            "a white boat on the ocean at sunset with a red sun",
            "a boat with a white sail on the sea and a red sun over the sea at sunset",
        ),
        ("clouds", "clouds and the sea"),
        ("a moon", "a white moon over the sea"),
        ("the house is in a meadow", "a red house on a green field"),
        ("a purple mountain at night", "a purple mountain and the grass at night"),
        ("a triangle above a star above a cross", "a green triangle and a yellow star and a "),
        ("above a square, a star", "a blue square to the left of a yellow star"),
    ],
)
def test_english_that_leaves_something_open_is_filled_in(prompt: str, told: str) -> None:
    translation = translate(prompt)
    assert translation.prompt_for_model.startswith(told)
    assert translation.unknown_words == ()


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a grey disc on a violet backdrop", "a gray circle on a purple background"),
        (
            "draw me a picture of a red ball on black background",
            "a red circle on a black background",
        ),
        (
            "Please paint an azure rhombus, brown background!",
            "a blue diamond on a brown background",
        ),
        ("A RED STAR, BLACK BACKGROUND", "a red star on a black background"),
        (
            "red star atop gold hoop, a pink backdrop",
            "a red star above a yellow ring on a pink background",
        ),
        (
            "a blue background with a red star beneath a gold hoop",
            "a red star below a yellow ring on a blue background",
        ),
        (
            "a red star next to a gold hoop on a blue background",
            "a red star to the left of a yellow ring on a blue background",
        ),
        (
            "a red star on the right of a gold hoop on a blue background",
            "a red star to the right of a yellow ring on a blue background",
        ),
        (
            "a tiny red plus in the upper-left corner on a teal background",
            "a small red cross in the top left on a cyan background",
        ),
        ("a white moon over the sea at midnight", "a white moon over the sea at night"),
        ("a red sun over the lawn at dusk", "a red sun over the grass at sunset"),
        ("a yellow sun atop a green hill", "a yellow sun above a green mountain"),
        ("a yellow sun next to a green hill", "a yellow sun above a green mountain"),
        ("a green hill beneath a yellow sun", "a green mountain below a yellow sun"),
        ("a yellow sun over the sea, backdrop", "a yellow sun over the sea, background"),
        ("A ship with a scarlet sail on the ocean", "a boat with a red sail on the ocean"),
    ],
)
def test_english_synonyms_become_the_words_of_the_model(prompt: str, told: str) -> None:
    assert translate(prompt) == Translation(told)


@pytest.mark.parametrize(
    ("prompt", "told", "unknown"),
    [
        ("一只红色的猫", "a red background", ("猫",)),
        ("三个红色圆形", "a red circle on a white background", ("三",)),
        ("深红色的圆形", "a red circle on a white background", ("深",)),
        ("a grey cat on a red background", "a red background", ("cat",)),
        ("a photo of a dog", "", ("dog",)),
        ("three red circles", "a red circle on a white background", ("three",)),
        ("a Beautiful, BEAUTIFUL red star", "a red star on a white background", ("beautiful",)),
        ("un cercle rouge à côté", "", ("un", "cercle", "rouge", "à", "côté")),
        ("красный круг и 圆形", "a red circle on a white background", ("красный", "круг", "и")),
        ("red 🙂 star", "a red star on a white background", ("🙂",)),
        ("恐龙和机器人2000", "", ("恐龙", "机器人2000")),
        ("red crown above a blue ball", "a blue circle on a white background", ("crown",)),
    ],
)
def test_unknown_words_are_left_out_and_named(
    prompt: str, told: str, unknown: tuple[str, ...]
) -> None:
    assert translate(prompt) == Translation(told, unknown)


@pytest.mark.parametrize("prompt", ["", "   ", "!?", "please draw", "帮我画一张图", "on the"])
def test_a_prompt_that_asks_for_nothing_stays_empty(prompt: str) -> None:
    assert translate(prompt) == Translation("")


def test_articles_and_links_that_lost_their_noun_go_too() -> None:
    kept = translate("a picture of the a red sun over the sea and, with a")
    assert kept == Translation("a red sun over the sea")
    assert translate("a orange sun over the sea") == Translation("an orange sun over the sea")


def test_every_word_of_a_translation_is_one_the_model_learnt() -> None:
    dice = random.Random(11)  # noqa: S311 -- no secret
    entries = [entry for entry in LEXICON if not entry.isascii()]
    english = [entry for entry in LEXICON if entry.isascii()]
    for _ in range(2000):
        chinese = dice.choices(entries, k=dice.randint(1, 8))
        latin = " ".join(dice.choices(english, k=dice.randint(0, 8)))
        for text in ("".join(chinese), latin, "，".join(chinese) + latin):
            translation = translate(text)
            words = set(split(translation.prompt_for_model)) - {","}
            assert words <= MODEL_WORDS - UNTRAINED, (text, translation)
        # Without commas two words may meet in a third and leave a remnant.
        assert translation.unknown_words == ()


def test_a_long_prompt_is_read_in_bounded_time_and_length() -> None:
    translation = translate("红色圆形在蓝色方块的左边，" * 10_000)
    assert len(translation.prompt_for_model) < 8_000
    assert len(translate("猫" * 50_000).unknown_words[0]) == 2000
