"""What a comment wishes to see, once the words around the wish are taken away.

Works on text in which the found parts are replaced by the marks below, one per part; such control
characters do not survive normalisation, so no comment can contain them. Every repetition is
possessive or bounded: linear time.
"""

import re
from collections.abc import Iterator

from limner.actors.intent.addresses import CJK

KEYWORD, ADDRESS, CUT = "\x01", "\x02", "\x03"
_BLOTS = ("", KEYWORD, ADDRESS, CUT)

# A word of an alphabet ends where another letter of an alphabet does not follow: "请draw一个".
LEFT, RIGHT = rf"(?<![^\W{CJK}])", rf"(?![^\W{CJK}])"

_BRACKETED = re.compile(r"(?:mailto:)?[(（<\[【\"'“] ?(\x02) ?[)）>\]】\"'”]|mailto:(\x02)", re.I)

_TO_ADDRESS = re.compile(
    rf"""(?:
    {LEFT}(?:(?:and|then|so|please|kindly|just)[ ]){{0,3}}+(?:
        (?:send|e-?mail|mail|deliver|forward)
            (?:[ ](?:it|this|that|them|the[ ](?:results?|pictures?|images?|videos?|file)))?
            (?:[ ](?:over|back))?(?:[ ](?:to|at|via|by))?(?:[ ](?:me|us))?(?:[ ](?:to|at|via|by))?
            (?:[ ](?:my[ ])?(?:e-?mail|mail|inbox|address)(?:[ ]address)?)?
        |(?:(?:my|our|the)[ ])?(?:e-?mail|mail|address)(?:[ ]address)?(?:[ ]is|'s)?
        |(?:contact|reach)[ ]me[ ](?:at|on|via)|here(?:[ ]is|'s)|to|at|for|via){RIGHT}
    |(?:(?:然后|再|请|麻烦|并|直接|就|可以|把?(?:图片|图|视频|结果|它)){{0,3}}+)
        (?:(?:发送(?:邮件)?|发邮件|寄|传|送)(?:到|给|至|往|去)?|发(?:到|给|至|往|去|我)|(?<!\w)发)
        (?:我|一下)?(?:的)?(?:邮箱|邮件|信箱)?(?:地址)?(?:是|为|里|上)?
    |(?:我的?|这个)?(?:个人|联系)?(?:邮箱|邮件|信箱|邮址|e-?mail)(?:地址)?(?:是|为|在)?
    |[到给至]
    )?[ ]?[:：=-]?[ ]?$""",
    re.IGNORECASE | re.VERBOSE,
)
_FROM_ADDRESS = re.compile(
    rf"(?<=\x02) ?(?:(?:的|这个)?(?:邮箱|信箱)(?:里|上)?|里|上"
    rf"|{LEFT}is my e-?mail(?: address)?{RIGHT})",
    re.IGNORECASE,
)
_MENTION = re.compile(r"@[^\s\x01-\x03,，。.!！?？;；:：、#@]{1,30}+")
_BOUNDARY = re.compile(r"( ?[,，。!！?？;；、~～…]+ ?|\.+(?=[ \x01-\x03]|$) ?|[\x01\x02\x03])")

# Before the request: "Hi there, could you please draw …", "大佬能不能帮我画一张…"
_ASKING = re.compile(
    rf"(?<![{CJK}])(?:(?:{LEFT}(?:hi|hello|hey|there|dear|please|pls|plz|kindly|just|so|and|then|also|can|could"
    rf"|would|will|do|you|u|i'd|i'm|i|we|want|wanted|need|wish|like|love|it|if|to|help|me|us|let's"
    rf"|maybe|someone|anyone|artist|how|why|not|don't|never|stop){RIGHT}|怎么|怎样|如何|为什么|不要|请问|请|麻烦|拜托|求求?|帮忙|帮我|给我|能不能|可不可以"
    rf"|能否|可以|能|想要|想|要|我|你|您|大佬|博主|老师|亲|你好|您好|哈喽|嗨|一下) ?){{1,20}}+$",
    re.IGNORECASE,
)
# Right after it: "draw me …", "make a picture of …", "画一张图：…", "画一个视频，…"
_OBJECT = re.compile(
    rf"^[ ]?(?:(?:for )?(?:me|us){RIGHT} ?)?(?:of{RIGHT}|一下|给我)?[ :：]*"
    rf"(?:(?:图片|图像|图画|照片|图|片)(?=[ :：]|$))?",
    re.IGNORECASE,
)
_POLITE_START = re.compile(
    rf"^(?:(?:{LEFT}(?:hi there|hi|hello|hey|please|pls|plz|kindly|thank you"
    rf"|thanks|thx){RIGHT}|请(?![柬帖客教])|麻烦[你您]?|拜托[了你您]?|你好|您好|哈喽|大佬|博主|老师"
    rf"|谢谢[你您啦了]?|感谢) ?){{1,8}}+",
    re.IGNORECASE,
)
_POLITE_END = re.compile(
    rf" ?(?:(?<![着写说字“]) ?(?:谢谢|多谢|感谢|拜托|辛苦)(?:[你您啦了呀哦！]|大佬|博主|老师)*+"
    rf"|(?:吧|呗|啦|哦|呀|好吗|可以吗|行吗)"
    rf"|{LEFT}(?:many thanks|thanks|thank you|thankyou|thx|ty|cheers|please|pls|plz)"
    rf"(?: (?:so much|very much|a lot|in advance|again|bro|man|all|everyone)){{0,3}}+{RIGHT}"
    rf"|{LEFT}(?:for|to) (?:me|us){RIGHT}|{LEFT}and(?: then)?{RIGHT})[ \U0001f300-\U0001faff❤]*$",
    re.IGNORECASE,
)
_ONLY_ABOUT = re.compile(
    r"(?:我的?|把?它|图片?|结果|请|再|然后)*+(?:画|做|弄|生成|完成|出图?)(?:好|完|成|了|之?后|以后){1,4}+"
    r"(?:请|麻烦)?(?:发|寄)?(?:给我|到|一下|我)?"
    r"|(?:send it|e-?mail it|mail it)(?: to me| over)?|when (?:it is|it's|you are) (?:done|ready)",
    re.IGNORECASE,
)
_VAGUE = re.compile(
    rf"(?:(?:{LEFT}(?:a|an|the|one|some|any|something|anything|sth|nice|cool|beautiful|cute|good"
    rf"|random|picture|pictures|pic|image|images|photo|drawing|painting|video|videos|art|stuff|thing"
    rf"|whatever|it|this|that|please|for|me|us|my|of|and|with|to|here|ok|okay|now|up){RIGHT}"
    rf"|图片|图像|图画|图|片|照片|视频|一[张个幅段条]|随便|什么|都行|都可以|好看|的|了|吧|个|张|我|给"
    rf"|[!-/:-@\[-`{{-~ 。、，！？：；（）～…—“”‘’]) ?){{1,40}}+",
    re.IGNORECASE,
)
_TAIL_LENGTH = 160
_EDGE = " :：-—–|/·•*=.、"


def clean(marked: str) -> str:
    """Give the wish in a marked text: in its own words and order, or nothing if it has none."""
    *before, rest = _BRACKETED.sub(ADDRESS, marked).split(ADDRESS)
    for _ in range(3):  # "send it to | my email address is | :" peels from the address outwards
        before = [_cut_end(_TO_ADDRESS, piece) for piece in before]
    text = _MENTION.sub(CUT, _FROM_ADDRESS.sub("", ADDRESS.join([*before, rest])))
    wish = _join(_clauses(text)).strip(" ,，")
    return "" if _VAGUE.fullmatch(wish) else wish


def _cut_end(pattern: re.Pattern[str], text: str) -> str:
    """Give the text without what matches at its end; a look at its last characters is enough."""
    return text[:-_TAIL_LENGTH] + pattern.sub("", text[-_TAIL_LENGTH:])


def _clauses(text: str) -> Iterator[tuple[str, str]]:
    """Give each clause that says something, with what separates it from the one before."""
    parts = ["", *_BOUNDARY.split(text), ""]
    between: list[str] = []
    for place in range(1, len(parts), 2):
        before, clause, after = parts[place - 1 : place + 2]
        between.append(before)
        clause = _strip(clause, before, after)
        if clause:
            yield _separator(between), clause
            between = []


def _separator(between: list[str]) -> str:
    """Give the first punctuation of what stood between two clauses, as it was if nothing is cut."""
    if len(between) == 1 and between[0] not in _BLOTS:
        return between[0]
    first = next((mark.strip() for mark in between if mark not in _BLOTS), "")
    return first if first in "，。！？；、" and first else f"{first} "


def _strip(clause: str, before: str, after: str) -> str:
    """Give the clause without courtesy at its ends; ``before`` and ``after`` are its boundaries."""
    clause = clause.strip(_EDGE)
    if after == KEYWORD:
        clause = _cut_end(_ASKING, clause)
    for _ in range(3):
        clause = _cut_end(_POLITE_END, clause).strip(_EDGE)
    clause = (_OBJECT if before == KEYWORD else _POLITE_START).sub("", clause).strip(_EDGE)
    if _ONLY_ABOUT.fullmatch(clause):
        return ""
    # A lone picture sign after the keyword is the wish, elsewhere it is a smile.
    return clause if before == KEYWORD or any(map(str.isalnum, clause)) else ""


def _join(clauses: Iterator[tuple[str, str]]) -> str:
    wish = ""
    for between, clause in clauses:
        wish += between + clause if wish else clause
    return wish
