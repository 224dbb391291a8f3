"""The rules read comments in both languages; literal words decide, patterns from users never."""

import json
import time
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.actors.intent.rules import (
    DEFAULT_DENY_WORDS,
    DEFAULT_KEYWORDS,
    LENGTH_MAX,
    WORD_LENGTH_MAX,
    WORDS_MAX,
    Rules,
    normalise,
)
from limner.core.errors import Invalid

RULES = Rules()
A, B = "a@example.com", "bob@example.com"

# text, prompt, kind: all have one address
TASKS = [
    (f"请帮我画一张红色的圆形，蓝色背景，发到{A}，谢谢！", "红色的圆形，蓝色背景", "image"),
    (f"帮我画一个红色的圆形，蓝色背景 {A}", "一个红色的圆形，蓝色背景", "image"),
    (f"画一张：蓝色的星星 邮箱：{A}", "蓝色的星星", "image"),
    (f"画一张图：蓝色的星星，邮箱是{A}", "蓝色的星星", "image"),
    (f"生成图片：一只猫 {A}", "一只猫", "image"),
    (f"出图 一只猫 {A}", "一只猫", "image"),
    (f"做图片，绿色的树，我的邮箱地址是 {A}", "绿色的树", "image"),
    (f"AI生成一张白色的月亮，黑色的天空，画好后发到邮箱 {A}", "白色的月亮，黑色的天空", "image"),
    (f"ai生成 白色的月亮 发我邮箱：{A}", "白色的月亮", "image"),
    (f"请出图画一张黄色的心 {A}", "黄色的心", "image"),
    (f"ＡＩ生成 白色的月亮 {A}", "白色的月亮", "image"),
    (f"生 成 一 张 白色的月亮 {A}", "白色的月亮", "image"),
    ("来一张紫色的三角形~ 邮箱 li 艾特 example 点 com 谢谢啦", "紫色的三角形", "image"),
    (f"我想要画一张黄色的太阳 在海上 {A}", "黄色的太阳 在海上", "image"),
    (f"麻烦大佬帮我画一张红色圆形，画完请发给我，发我邮箱：{A}，辛苦了", "红色圆形", "image"),
    (f"{A} 画一张红色的圆形谢谢", "红色的圆形", "image"),
    (f"画一张红色的圆形吧，可以吗？{A}", "红色的圆形", "image"),
    (f"画一张邀请函，发到{A}", "邀请函", "image"),
    (f"画一张请柬 {A}", "请柬", "image"),
    (f"画一张红色的邮箱，我的邮箱是{A}", "红色的邮箱", "image"),
    (f"画一张写着谢谢的卡片 发给 {A} 谢谢", "写着谢谢的卡片", "image"),
    (f"画一张卡片写着谢谢 {A}", "卡片写着谢谢", "image"),
    (f"画一张女孩，绿色头发 {A}", "女孩，绿色头发", "image"),
    (f"画一张送给妈妈的花 寄到{A}", "送给妈妈的花", "image"),
    (f"画一张❤️ 发到 {A}", "❤", "image"),
    (f"@小红薯 帮我画一张绿色的心 {A} #画画# #AI绘画", "绿色的心", "image"),
    (f"@小明画一张绿色的心 {A}", "绿色的心", "image"),
    (f"@bot画一张绿色的心 {A}", "绿色的心", "image"),
    (f"请draw一个红色圆形 {A}", "一个红色圆形", "image"),
    (f"特别帮我画一张红色圆形 {A}", "特别 红色圆形", "image"),
    (f"画一张红,蓝两色的圆 {A}", "红,蓝两色的圆", "image"),
    (f"做视频：红色的圆形 发送到 {A} 谢谢大佬", "红色的圆形", "video"),
    (f"帮我画一个视频，红色的圆形，发到{A}", "红色的圆形", "video"),
    (f"帮我画一个视频封面 {A}", "一个视频封面", "image"),
    (f"draw a red circle, send to {B} thanks", "a red circle", "image"),
    (
        "Please draw me a green star, my email is bob at example dot com. Thanks a lot!",
        "a green star",
        "image",
    ),
    (
        f"Could you please paint a sun over the sea? Send it to {B} 🙏",
        "a sun over the sea",
        "image",
    ),
    (f"Hi there! I'd love it if you could draw a heart for {B}", "a heart", "image"),
    (f"make a picture of a square above a ring. {B}", "a square above a ring", "image"),
    (f"MAKE A PICTURE of a ring {B}", "a ring", "image"),
    (f"Draw a #ff0000 circle for {B} #art", "a #ff0000 circle", "image"),
    (f"draw a dog in a hat and e-mail it to me at {B} please", "a dog in a hat", "image"),
    (f"{B} draw a red circle", "a red circle", "image"),
    (f"draw {B} a red circle", "a red circle", "image"),
    (f"why don't you draw me a red circle, {B}", "a red circle", "image"),
    (f"draw a cat ({B})", "a cat", "image"),
    (f"draw a cat mailto:{B}", "a cat", "image"),
    (f"Send to {B}: draw a blue ring", "a blue ring", "image"),
    (
        f"draw a circle. it's for my mum. send it to {B}, thank you so much!!!",
        "a circle. it's for my mum",
        "image",
    ),
    (f"draw a circle, then a star; {B} is my email", "a circle, then a star", "image"),
    (f"Draw a cat, {B}, with a hat", "a cat, with a hat", "image"),
    (f"draw a red circle for me please: {B}", "a red circle", "image"),
    ("draw a tree - bob[at]example[dot]com", "a tree", "image"),
    (f"can you draw a ring? my e-mail address is: {B}.", "a ring", "image"),
    (f"draw a letter e on mail paper {B}", "a letter e on mail paper", "image"),
    (
        f"generate an image of a cat and send it to my email address {B}",
        "an image of a cat",
        "image",
    ),
    (f"draw a v1.5 robot {B}", "a v1.5 robot", "image"),
    (f"@draw_bot draw a cat {B}", "a cat", "image"),
    (f"make a video of a boat, mail it to {B}", "a boat", "video"),
    (f"generate a short video of a circle, email: {B}", "a circle", "video"),
    (f"draw a video camera {B}", "a video camera", "image"),
    (f"draw a woman who can draw {B}", "a woman who can draw", "image"),
    (f"draw a cat, when it's done send it to {B}", "a cat", "image"),
]

# text, verdict, reason
OTHERS = [
    ("今天天气真好", "ignored", "no keyword"),
    ("", "ignored", "no keyword"),
    ("   \u200b  ", "ignored", "no keyword"),
    (f"write to me: {A}", "ignored", "no keyword"),
    (f"I withdraw my money {B}", "ignored", "no keyword"),
    (f"a nice drawing {B}", "ignored", "no keyword"),
    (f"redraw, drawn, drawé {B}", "ignored", "no keyword"),
    ("my mail is draw@example.com, hello", "ignored", "no keyword"),
    (f"@draw hello {B}", "ignored", "no keyword"),
    (f"love it #draw {B}", "ignored", "no keyword"),
    (f"画画真好看 {A}", "ignored", "no keyword"),
    (f"画一张图加微信详聊 {A}", "ignored", "deny word"),
    (f"画一张图 加 微 信 {A}", "ignored", "deny word"),
    (f"画一张图 加\u200b微信 {A}", "ignored", "deny word"),
    ("代购包包", "ignored", "deny word"),
    (f"draw a cat! FOLLOW  FOR follow {B}", "ignored", "deny word"),
    (f"Crypto Giveaway: draw a winner {B}", "ignored", "deny word"),
    ("How do you draw a red circle?", "no_address", "no address"),
    ("怎么画一张红色的圆形？", "no_address", "no address"),
    ("画一张红色的圆形", "no_address", "no address"),
    ("draw a cat for name#qq.com", "no_address", "no address"),
    ("draw a cat for a..b@x", "no_address", "no address"),
    ("the match was a draw", "no_address", "no address"),
    (f"怎么画一张红色的圆形？{A}", "needs_review", "unclear wish"),
    (f"How can I draw a cat? Tell {B}", "needs_review", "unclear wish"),
    (f"don't draw a cat {B}", "needs_review", "unclear wish"),
    (f"不要再画一张了红色的 {A}", "needs_review", "unclear wish"),
    (f"画一张圆形 {A} 或 {B}", "needs_review", "several addresses"),
    (f"draw a cat {A}\r\nBcc: {B}", "needs_review", "several addresses"),
    (f"画一张图 发到{A}", "needs_review", "empty prompt"),
    (f"帮我画一张图吧，什么都行，发到 {A}", "needs_review", "empty prompt"),
    (f"出图 {A}", "needs_review", "empty prompt"),
    (f"draw a picture for me, {B}", "needs_review", "empty prompt"),
    (f"please draw something nice and send it to {B}, thanks", "needs_review", "empty prompt"),
    (f"make a video {B}", "needs_review", "empty prompt"),
    (f"draw!!! {B}", "needs_review", "empty prompt"),
    (f"draw a cat {B} " + "喵" * LENGTH_MAX, "needs_review", "text too long"),
]


@pytest.mark.parametrize(("text", "prompt", "kind"), TASKS)
def test_a_wish_with_one_address_is_a_task(text: str, prompt: str, kind: str) -> None:
    reading = RULES.read(text)
    assert (reading.verdict, reading.reason, reading.confidence) == ("task", None, 1.0)
    assert reading.prompt == prompt
    assert reading.kind == kind
    assert reading.email in (A, B, "li@example.com")


@pytest.mark.parametrize(("text", "verdict", "reason"), OTHERS)
def test_everything_else_is_told_with_its_reason(text: str, verdict: str, reason: str) -> None:
    reading = RULES.read(text)
    assert (reading.verdict, reading.reason, reading.confidence) == (verdict, reason, 0.0)


@pytest.mark.parametrize("keyword", DEFAULT_KEYWORDS)
def test_every_default_keyword_makes_a_task(keyword: str) -> None:
    reading = RULES.read(f"{keyword} 红色 circle {A}")
    assert (reading.verdict, reading.keyword) == ("task", keyword)
    assert reading.prompt == "红色 circle"
    assert reading.kind == ("video" if "video" in keyword or "视频" in keyword else "image")


@pytest.mark.parametrize("word", DEFAULT_DENY_WORDS)
def test_every_default_deny_word_drops_a_wish(word: str) -> None:
    reading = RULES.read(f"draw a cat {B} {word}")
    assert (reading.verdict, reading.denied_by) == ("ignored", word)


def test_the_keyword_is_the_first_and_several_addresses_name_nobody() -> None:
    reading = RULES.read(f"paint or draw? {A} {B}")
    assert reading.keyword == "paint"
    assert reading.addresses == (A, B)
    assert reading.email is None


@pytest.mark.parametrize(
    ("text", "language"), [("draw 猫", "zh"), ("draw a cat", "en"), ("", "en"), ("ねこ", "en")]
)
def test_han_characters_make_it_chinese(text: str, language: str) -> None:
    assert RULES.read(text).language == language


def test_words_from_users_are_literal() -> None:
    rules = Rules(["(a+)+$", "c++", "画.张"], ["x|y", ".*"])
    assert rules.read("aaaa").keyword is None
    assert rules.read("画一张").keyword is None
    assert rules.read(f"write (a+)+$ now {A}").keyword == "(a+)+$"
    assert rules.read(f"C++ code {A}").prompt == "code"
    assert rules.read("x y").denied_by is None
    assert rules.read("x|y").denied_by == "x|y"


def test_the_longer_of_two_words_that_begin_alike_is_meant() -> None:
    assert Rules(["画", "画一张"], []).read("画一张猫").keyword == "画一张"
    assert Rules(["make", "make a video"], []).read("make a video").kind == "video"


def test_words_are_normalised_as_texts_are() -> None:
    rules = Rules(["  ＤＲＡＷ\u200b "], ["İnstant"])
    assert rules.read("please draw").keyword == "  ＤＲＡＷ\u200b "
    assert rules.read("İnstant").denied_by == "İnstant"


def test_without_words_every_comment_is_ignored() -> None:
    reading = Rules([" ", "\u200b"], []).read(f"draw a cat {A}")
    assert (reading.verdict, reading.prompt) == ("ignored", "")


def test_too_many_or_too_long_words_are_refused() -> None:
    Rules([f"word{n}" for n in range(WORDS_MAX)], ["x" * WORD_LENGTH_MAX])
    with pytest.raises(Invalid, match="500"):
        Rules([f"word{n}" for n in range(WORDS_MAX + 1)])
    with pytest.raises(Invalid, match="64"):
        Rules([], ["x" * (WORD_LENGTH_MAX + 1)])


NASTY = [
    "\x00\x01\x02\x03",
    "\x01draw\x02 a@example.com\x03",
    "\ud800\udfff lone",
    "\u202etest\u202c draw",
    "Z̮̞̠͙͔ͅḀ̗̞͈̻̗Ḷ͙͎̯̹̞͓G̻O̭̗̮ draw a@example.com",
    "ﷺ" * 50,
    "'; DROP TABLE comments; -- draw a@example.com",
    "<script>alert(1)</script> 画一张 a@example.com",
    "{{7*7}} ${jndi:ldap://x} %s %n {x.__class__} draw a@example.com",
    "../../etc/passwd%00 出图",
    "Ω≈ç√∫˜µ≤≥÷ draw",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇳 帮我画",
    "NaN null undefined true -1 1e999 0x0",
    "İIıi ẞß ŉ ǰ ΐ draw",
    "@@@@ #### .... ---- ＠＠ 。。。。 draw",
    "((((((((((at))))))))) dot",
    "\U000e0041\U000e0042 tags",
    "الصفحات draw a@example.com",
    "ㅤㅤㅤ draw a@example.com",
    "\r\n.\r\nRSET draw a@example.com",
]


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_is_read_without_harm(text: str) -> None:
    reading = RULES.read(text)
    assert not any(one < " " for one in reading.prompt)
    reading.prompt.encode()


def test_marks_in_a_comment_can_not_pose_as_found_parts() -> None:
    reading = RULES.read("draw \x01a cat\x02 a@example.com")
    assert reading.prompt == "a cat"


PIECES = st.sampled_from(
    [
        *("帮我画", "画一张", "draw", "make a video of", "请", "谢谢", "，", "。", "@tom", "#art"),
        *("发到", A, B, "a red circle", "红色的圆", "my email is", " ", "\n", "\x01", "(", "如何"),
    ]
)


@given(st.text() | st.lists(PIECES, max_size=15).map("".join))
def test_any_text_is_read_and_what_is_read_hangs_together(text: str) -> None:
    reading = RULES.read(text)
    assert (reading.verdict == "task") == (reading.reason is None) == (reading.confidence == 1.0)
    if reading.verdict == "task":
        assert reading.keyword
        assert reading.email
        assert reading.prompt
        assert reading.denied_by is None
    assert not any(one in reading.prompt for one in "\x00\x01\x02\x03")
    assert not any(address in reading.prompt for address in reading.addresses)
    assert len(reading.prompt) <= LENGTH_MAX
    assert RULES.read(normalise(text)).verdict == reading.verdict


def best_s(text: str) -> float:
    """Give the shortest of three readings, in seconds of this thread."""
    times = []
    for _ in range(3):
        start = time.thread_time()
        RULES.read(text)
        times.append(time.thread_time() - start)
    return min(times)


HOSTILE = (
    *(
        "a",
        "请",
        "谢谢",
        "me ",
        "I'd ",
        "and then ",
        "a@b. ",
        "发到",
        "draw ",
        "画一张",
        "#",
        "图片",
    ),
    *("😀", "how do you ", "thanks so much ", "a dot ", "send it to my email ", "a. ", "（", "@画"),
)


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("frame", ["{}", "draw {} a@example.com", "{}x draw a@example.com 谢谢"])
def test_the_time_grows_with_the_text_and_no_faster(piece: str, frame: str) -> None:
    short = frame.format((piece * LENGTH_MAX)[:900])
    long = frame.format((piece * LENGTH_MAX)[:9_000])
    assert best_s(long) < 60 * best_s(short) + 0.01


def test_beyond_the_limit_length_costs_nothing() -> None:
    assert best_s("a" * 50_000) < 30 * best_s("a" * 5_000) + 0.01


def test_many_words_stay_quick() -> None:
    few, many = Rules(["word0"], []), Rules([f"word{n}" for n in range(WORDS_MAX)], [])
    text = "word but none of these " * 400
    times = []
    for rules in (few, many):
        start = time.thread_time()
        assert rules.read(text).keyword is None
        times.append(time.thread_time() - start)
    assert times[1] < 20 * times[0] + 0.05


def demo_comments() -> list[dict[str, Any]]:
    file = resources.files("limner") / "actors" / "poller" / "demo" / "comments.json"
    comments: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))
    return comments


@pytest.mark.parametrize("comment", demo_comments(), ids=lambda comment: comment["author"])
def test_each_demo_comment_is_read_as_it_says(comment: dict[str, Any]) -> None:
    expected = {"emailed": "task", "failed": "task"}.get(comment["expect"], comment["expect"])
    reading = RULES.read(comment["text"])
    assert reading.verdict == expected
    if expected == "task":
        assert reading.kind == comment["kind"]
        assert comment["meaning"]


def test_the_demo_shows_every_case() -> None:
    comments = demo_comments()
    assert len(comments) >= 14
    fates = {comment["expect"] for comment in comments}
    assert fates == {"emailed", "failed", "ignored", "no_address", "needs_review"}
    ids = [comment["id"] for comment in comments]
    assert len(ids) - len(set(ids)) == 1
    assert {RULES.read(comment["text"]).language for comment in comments} == {"zh", "en"}
    wishes = [comment["text"] for comment in comments if comment["expect"] == "emailed"]
    assert len(set(wishes)) < len({(c["id"], c["text"]) for c in comments if c["text"] in wishes})
