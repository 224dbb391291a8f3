"""The sentences of our mails, in both languages, each written once for text and HTML."""

from dataclasses import dataclass
from typing import Literal

Language = Literal["zh", "en"]
Kind = Literal["image", "video"]


@dataclass(frozen=True, slots=True)
class Phrases:
    """What the mails say. ``expiry`` has a place for ``{duration}``; ``tag`` is BCP 47."""

    tag: str
    ready: dict[Kind, str]
    open: dict[Kind, str]
    shows: dict[Kind, str]
    why: dict[Kind, str]
    wish: str
    colon: str
    expiry: str
    stop: str
    automatic: str


PHRASES: dict[Language, Phrases] = {
    "en": Phrases(
        tag="en",
        ready={"image": "Your picture is ready", "video": "Your video is ready"},
        open={"image": "Open the picture", "video": "Watch the video"},
        shows={"image": "The picture that was made for:", "video": "First frame of the video for:"},
        why={
            "image": "You receive this mail because a comment with your address asked for a "
            "picture.",
            "video": "You receive this mail because a comment with your address asked for a video.",
        },
        wish="You asked for",
        colon=":",
        expiry="This link works for {duration}. Afterwards it shows how to get a new one.",
        stop="Receive no more of these mails",
        automatic="This mail was sent automatically.",
    ),
    "zh": Phrases(
        tag="zh-Hans",
        ready={"image": "您的图片已生成", "video": "您的视频已生成"},
        open={"image": "打开图片", "video": "观看视频"},
        shows={"image": "为您生成的图片：", "video": "视频的第一帧："},
        why={
            "image": "您收到此邮件，是因为一条留有您邮箱地址的评论请求生成图片。",
            "video": "您收到此邮件，是因为一条留有您邮箱地址的评论请求生成视频。",
        },
        wish="您的要求",
        colon="：",
        expiry="此链接在 {duration}内有效；过期后打开，页面会说明如何获取新链接。",
        stop="不再接收此类邮件",
        automatic="此邮件由系统自动发送。",
    ),
}

_UNITS: tuple[tuple[int, str, str, str], ...] = (
    (86_400, "day", "days", "天"),
    (3_600, "hour", "hours", "小时"),
    (60, "minute", "minutes", "分钟"),
    (1, "second", "seconds", "秒"),
)


def duration(seconds: int, language: Language) -> str:
    """Say a time span of at least one second in one unit, never longer than it is.

    The unit is the largest that divides the span, or of which it holds two: 3,600 is "1 hour",
    5,400 is "90 minutes", 100,000 is "27 hours".
    """
    seconds = max(1, seconds)
    size, one, many, chinese = next(
        unit for unit in _UNITS if seconds % unit[0] == 0 or seconds >= 2 * unit[0]
    )
    count = seconds // size
    if language == "zh":
        return f"{count} {chinese}"
    return f"{count} {one if count == 1 else many}"
