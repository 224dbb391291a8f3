"""The words the built-in model can be asked with, in Chinese and English: tables, nothing else.

Every entry is one meaning with the words for it, separated by spaces; an underscore stands for a
space inside a phrase.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

Kind = Literal[
    "colour",
    "size",
    "shape",  # what stands on a plain background
    "thing",  # what stands in a scene
    "ground",
    "sky",
    "background",
    "place",  # Chinese: where something is, said after what it is measured from
    "spot",  # English: where something is, said after the thing itself
    "relation",  # English: said before what it is measured from
    "at",
    "is",
    "of",
    "and",
    "filler",
]


class Meaning(NamedTuple):
    """What a word says: its kind and the name the model knows it by."""

    kind: Kind
    name: str = ""


SIMPLIFIED = str.maketrans(
    "紅黃藍綠圓陽樹雲個顆隻條張畫圖塊邊間裡裏後點顏與還並請幫給來帶環鑽愛頂側處為陰銀"
    "純棟漁層輪羅蘭號碩體鮮潔峯巒脈頭飄著時設狀製這謝駛嗎於葉彎烏當對兩",
    "红黄蓝绿圆阳树云个颗只条张画图块边间里里后点颜与还并请帮给来带环钻爱顶侧处为阴银"
    "纯栋渔层轮罗兰号硕体鲜洁峰峦脉头飘着时设状制这谢驶吗于叶弯乌当对两",
)
"""Traditional characters to simplified ones, as far as the words below need them."""

_COLOURS_ZH = {
    "red": "红 大红 鲜红 朱红 赤",
    "green": "绿 翠绿 碧绿 草绿",
    "blue": "蓝 天蓝 海蓝 湛蓝 蔚蓝",
    "yellow": "黄 金 金黄 明黄",
    "orange": "橙 橘 橘黄 橙黄 桔",
    "purple": "紫 紫罗兰",
    "pink": "粉 粉红 桃红",
    "white": "白 雪白 洁白 纯白",
    "black": "黑 漆黑 纯黑 乌黑",
    "gray": "灰 银灰",
    "brown": "棕 褐 咖啡 棕褐",
    "cyan": "青 蓝绿 青蓝",
}
_COLOURS_EN = {
    "red": "red crimson scarlet",
    "green": "green",
    "blue": "blue azure",
    "yellow": "yellow golden gold",
    "orange": "orange",
    "purple": "purple violet",
    "pink": "pink rose",
    "white": "white",
    "black": "black",
    "gray": "gray grey",
    "brown": "brown",
    "cyan": "cyan turquoise aqua teal",
}
_SIZES = {
    "big": "大 很大 巨大 超大 大大 大号 硕大 big large huge giant",
    "small": "小 很小 微小 小小 迷你 小号 细小 small tiny little mini",
}
_SHAPES = {
    "circle": "圆 圆形 圆圈 圆点 圆球 圆盘 球 球体 球形 circle disc disk ball dot sphere",
    "square": "正方形 方形 方块 正方 方格 四方形 正方块 square box",
    "triangle": "三角形 三角 正三角形 triangle",
    "star": "星星 星形 五角星 星 五角星形 小星星 star",
    "heart": "心形 爱心 心 桃心 心型 heart",
    "diamond": "菱形 钻石 菱 钻石形 diamond rhombus lozenge",
    "ring": "圆环 环形 环 圆环形 指环 光环 ring hoop donut doughnut",
    "cross": "十字 十字形 十字架 加号 十字型 cross plus",
}
_THINGS = {
    "sun": "太阳 日头 烈日 朝阳 sun",
    "moon": "月亮 明月 满月 圆月 月球 月 moon",
    "mountain": "山 山峰 高山 大山 群山 山峦 山脉 山头 mountain hill peak",
    "house": "房子 屋子 小屋 房屋 屋 木屋 房 小房子 house cottage hut cabin",
    "tree": "树 大树 小树 树木 tree",
    "boat": "船 小船 帆船 船只 渔船 舟 小舟 boat ship sailboat yacht",
    "sail": "帆 船帆 风帆 sail",
    "clouds": "云 云朵 白云 云彩 云层 clouds cloud",
}
_GROUNDS = {
    "sea": "大海 海 海洋 海面 海水 海边 sea ocean",
    "grass": "草地 草原 草坪 草 绿草地 grass lawn grassland",
    "field": "田野 原野 绿地 田 field meadow",
    "desert": "沙漠 沙地 荒漠 desert",
    "snow": "雪地 雪 雪原 冰雪 snow",
}
_SKIES = {
    "": "天空 天 天上 空中 天边 sky",
    "blue": "蓝天 晴天 晴空 白天 晴朗 青天",
    "night": "夜晚 夜空 夜里 晚上 黑夜 夜 夜色 深夜 星空 夜间 午夜 night midnight",
    "sunset": "日落 黄昏 傍晚 晚霞 日暮 sunset dusk evening twilight",
    "gray": "阴天 灰天 多云",
}
_BACKGROUNDS = {"": "背景 底 底色 背景色 背景图 背景颜色 background backdrop"}
_PLACES = {
    "top left": "左上角 左上方 左上 左上侧",
    "top right": "右上角 右上方 右上 右上侧",
    "bottom left": "左下角 左下方 左下 左下侧",
    "bottom right": "右下角 右下方 右下 右下侧",
    "top": "上方 上面 上边 上部 顶部 顶端 上头 顶上 上侧 正上方",
    "bottom": "下方 下面 下边 下部 底部 底端 底下 下头 下侧 正下方 之下 下",
    "left": "左边 左侧 左方 左面 左 左手边 旁边",
    "right": "右边 右侧 右方 右面 右 右手边",
    "center": "中间 中央 中心 正中 正中央 居中 当中 正中间",
    "behind": "后面 背后 后方 后边 身后",
    "on": "上 之上 上空",
    "in": "里 里面 中 内 里边 之中",
}
_SPOTS = {
    "top left": "top_left upper_left",
    "top right": "top_right upper_right",
    "bottom left": "bottom_left lower_left",
    "bottom right": "bottom_right lower_right",
    "top": "top upper",
    "bottom": "bottom lower",
    "left": "left",
    "right": "right",
    "center": "center centre middle",
}
_RELATIONS = {
    "top": "above over on_top_of atop",
    "bottom": "below under beneath underneath",
    "left": "to_the_left_of left_of on_the_left_of beside next_to",
    "right": "to_the_right_of right_of on_the_right_of",
    "behind": "behind",
}
_FUNCTION = {
    "at": "在 位于 处于 放在 画在 挂在 升在",
    "is": "有 是 为 存在 画着 设为 画有 is are",
    "of": "的",
    "and": "和 与 跟 及 以及 还有 并且 加上 配 配上 带 带着 带有 画上 加 and with",
}
_FILLERS = (
    "请 帮 我 帮我 帮忙 给 给我 你 您 画 画个 要 想 想要 我要 生成 制作 做 来 求 求图 出图 出 可以 "
    "一 一个 一颗 一只 一座 一条 一张 一幅 一片 一轮 一棵 一艘 一栋 一间 一朵 一道 一块 一枚 一面 "
    "一弯 一所 一幢 一株 一叶 一抹 个 颗 只 座 条 张 幅 片 轮 棵 艘 栋 间 朵 道 块 枚 面 幢 株 "
    "图 图片 图画 画面 照片 图像 插画 图案 画一张 来一张 能不能 能 "
    "吗 吧 呢 啊 哦 呀 了 着 那 这 很 非常 得 之 色 颜色 形状 时 时候 时分 一下 看看 看 谢谢 "
    "放 放着 挂着 挂 升起 飘着 漂着 停着 长着 站着 飘 漂 浮 漂浮 航行 行驶 矗立 座落 坐落 "
    "ai a an the in on at of to please draw paint generate create make show me picture image "
    "drawing photo painting photograph illustration can could you i want would like corner there "
    "it there's it's i'd"
)
_COMPOUNDS: Mapping[str, tuple[Meaning, ...]] = {
    "夕阳": (Meaning("sky", "sunset"), Meaning("thing", "sun")),
    "落日": (Meaning("sky", "sunset"), Meaning("thing", "sun")),
    "雪山": (Meaning("colour", "white"), Meaning("thing", "mountain")),
    "青山": (Meaning("colour", "green"), Meaning("thing", "mountain")),
    "红日": (Meaning("colour", "red"), Meaning("thing", "sun")),
    "红心": (Meaning("colour", "red"), Meaning("shape", "heart")),
}

MODEL_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a above an and at background behind below big black blue boat bottom brown center centre
        circle clouds corner cross cyan desert diamond draw drawing field grass gray green grey
        heart house image in large left middle moon mountain night ocean of on orange over photo
        picture pink purple red right ring sail sea sky small snow square star sun sunset the tiny
        to top tree triangle under white with yellow
        """,
    )
)
"""The model's vocabulary, which a test holds against its tokenizer."""

UNTRAINED = frozenset(("picture", "drawing", "image", "photo", "draw", "grey", "centre"))
"""In the vocabulary, but never in a caption the model learnt from."""


def _entries() -> Iterator[tuple[str, tuple[Meaning, ...]]]:
    """Yield every word or phrase with its meaning; a later entry overrules an earlier one."""
    for word in _FILLERS.split():
        yield word, (Meaning("filler"),)
    tables: tuple[tuple[Kind, Mapping[str, str]], ...] = (
        ("spot", _SPOTS),
        ("relation", _RELATIONS),
        ("place", _PLACES),
        ("colour", _COLOURS_ZH),
        ("colour", _COLOURS_EN),
        ("size", _SIZES),
        ("shape", _SHAPES),
        ("thing", _THINGS),
        ("ground", _GROUNDS),
        ("sky", _SKIES),
        ("background", _BACKGROUNDS),
    )
    for kind, table in tables:
        for name, words in table.items():
            for word in words.split():
                yield word.replace("_", " "), (Meaning(kind, name),)
    for name, words in _COLOURS_ZH.items():
        for word in words.split():
            yield word + "色", (Meaning("colour", name),)
    for function in ("at", "is", "of", "and"):
        for word in _FUNCTION[function].split():
            yield word, (Meaning(function),)
    yield from _COMPOUNDS.items()


LEXICON: Mapping[str, tuple[Meaning, ...]] = dict(_entries())
LONGEST = max(map(len, LEXICON))
"""Of any entry, in characters."""

PHRASE_WORDS = max(entry.count(" ") + 1 for entry in LEXICON)
"""Of the longest English phrase."""
