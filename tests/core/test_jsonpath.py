"""JSON within limits, RFC 9535 paths within a time, templates filled."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.core.errors import Invalid
from limner.core.jsonpath import compile_path

# The example document of RFC 9535, figure 1.
STORE: Any = {
    "store": {
        "book": [
            {
                "category": "reference",
                "author": "Nigel Rees",
                "title": "Sayings of the Century",
                "price": 8.95,
            },
            {
                "category": "fiction",
                "author": "Evelyn Waugh",
                "title": "Sword of Honour",
                "price": 12.99,
            },
            {
                "category": "fiction",
                "author": "Herman Melville",
                "title": "Moby Dick",
                "isbn": "0-553-21311-3",
                "price": 8.99,
            },
            {
                "category": "fiction",
                "author": "J. R. R. Tolkien",
                "title": "The Lord of the Rings",
                "isbn": "0-395-19395-8",
                "price": 22.99,
            },
        ],
        "bicycle": {"color": "red", "price": 399},
    }
}
BOOKS = STORE["store"]["book"]
AUTHORS = ["Nigel Rees", "Evelyn Waugh", "Herman Melville", "J. R. R. Tolkien"]
NAMES = {"o": {"j j": {"k.k": 3}}, "'": {"@": 2}}
NULLS: Any = {"a": None, "b": [None], "c": [{}], "null": 1}
FILTERS: Any = {
    "a": [3, 5, 1, 2, 4, 6, {"b": "j"}, {"b": "k"}, {"b": {}}, {"b": "kilo"}],
    "o": {"p": 1, "q": 2, "r": 3, "s": 5, "t": {"u": 6}},
    "e": "f",
}
COMPARED = {"obj": {"x": "y"}, "arr": [2, 3]}
LETTERS = ["a", "b", "c", "d", "e", "f", "g"]
DESCENT = {"o": {"j": 1, "k": 2}, "a": [5, 3, [{"j": 4}, {"k": 6}]]}


@pytest.mark.parametrize(
    ("path", "document", "found"),
    [
        # Section 1.5, table 2
        ("$.store.book[*].author", STORE, AUTHORS),
        ("$..author", STORE, AUTHORS),
        ("$.store.*", STORE, [BOOKS, {"color": "red", "price": 399}]),
        ("$.store..price", STORE, [8.95, 12.99, 8.99, 22.99, 399]),
        ("$..book[2]", STORE, [BOOKS[2]]),
        ("$..book[2].author", STORE, ["Herman Melville"]),
        ("$..book[2].publisher", STORE, []),
        ("$..book[-1]", STORE, [BOOKS[3]]),
        ("$..book[0,1]", STORE, BOOKS[:2]),
        ("$..book[:2]", STORE, BOOKS[:2]),
        ("$..book[?@.isbn]", STORE, BOOKS[2:]),
        ("$..book[?@.price<10]", STORE, [BOOKS[0], BOOKS[2]]),
        # Section 2.2.3 and 2.3.1.3
        ("$", {"k": "v"}, [{"k": "v"}]),
        ("$.o['j j']", NAMES, [{"k.k": 3}]),
        ("$.o['j j']['k.k']", NAMES, [3]),
        ('$.o["j j"]["k.k"]', NAMES, [3]),
        ('$["\'"]["@"]', NAMES, [2]),
        # Section 2.3.2.3 to 2.3.4.3
        ("$.o[*, *]", {"o": {"j": 1, "k": 2}}, [1, 2, 1, 2]),
        ("$[1]", ["a", "b"], ["b"]),
        ("$[-2]", ["a", "b"], ["a"]),
        ("$[2]", ["a", "b"], []),
        ("$[1:3]", LETTERS, ["b", "c"]),
        ("$[5:]", LETTERS, ["f", "g"]),
        ("$[1:5:2]", LETTERS, ["b", "d"]),
        ("$[5:1:-2]", LETTERS, ["f", "d"]),
        ("$[::-1]", LETTERS, LETTERS[::-1]),
        ("$[::0]", LETTERS, []),
        ("$[1:3]", "abcdef", []),
        # Section 2.3.5.3, table 11
        ("$[?$.absent1 == $.absent2]", COMPARED, [{"x": "y"}, [2, 3]]),
        ("$[?$.absent == 'g']", COMPARED, []),
        ("$[?1 <= 2]", [0], [0]),
        ("$[?1 > 2]", [0], []),
        ("$[?13 == '13']", [0], []),
        ("$[?'a' <= 'b']", [0], [0]),
        ("$[?$.obj == $.arr]", COMPARED, []),
        ("$[?$.obj != $.arr]", COMPARED, [{"x": "y"}, [2, 3]]),
        ("$[?$.obj == $.obj]", COMPARED, [{"x": "y"}, [2, 3]]),
        ("$[?$.obj <= $.obj]", COMPARED, [{"x": "y"}, [2, 3]]),
        ("$[?$.obj < $.arr]", COMPARED, []),
        ("$[?1 != $.arr]", COMPARED, [{"x": "y"}, [2, 3]]),
        ("$[?true <= true]", [0], [0]),
        ("$[?true > true]", [0], []),
        # Section 2.3.5.3, table 12
        ("$.a[?@.b == 'kilo']", FILTERS, [{"b": "kilo"}]),
        ("$.a[?(@.b == 'kilo')]", FILTERS, [{"b": "kilo"}]),
        ("$.a[?@>3.5]", FILTERS, [5, 4, 6]),
        ("$.a[?@.b]", FILTERS, FILTERS["a"][6:]),
        ("$[?@.*]", FILTERS, [FILTERS["a"], FILTERS["o"]]),
        ("$[?@[?@.b]]", FILTERS, [FILTERS["a"]]),
        ("$.o[?@<3, ?@<3]", FILTERS, [1, 2, 1, 2]),
        ('$.a[?@<2 || @.b == "k"]', FILTERS, [1, {"b": "k"}]),
        ("$.o[?@>1 && @<4]", FILTERS, [2, 3]),
        ("$.o[?@.u || @.x]", FILTERS, [{"u": 6}]),
        ("$.a[?@.b == $.x]", FILTERS, [3, 5, 1, 2, 4, 6]),
        ("$.a[?@ == @]", FILTERS, FILTERS["a"]),
        ("$.a[?!@.b]", FILTERS, [3, 5, 1, 2, 4, 6]),
        ("$.a[?!(@ < 6 || @.b)]", FILTERS, [6]),
        # Section 2.4
        ("$[?length(@) < 3]", ["ab", [1, 2, 3], {"a": 1}, 5], ["ab", {"a": 1}]),
        ("$[?count(@.*) == 1]", COMPARED, [{"x": "y"}]),
        ("$[?value(@..x) == 'y']", COMPARED, [{"x": "y"}]),
        ("$[?length(value(@..x)) == 1]", COMPARED, [{"x": "y"}]),
        # Section 2.5
        ("$[0, 3]", LETTERS, ["a", "d"]),
        ("$[0:2, 5]", LETTERS, ["a", "b", "f"]),
        ("$[0, 0]", LETTERS, ["a", "a"]),
        ("$..j", DESCENT, [1, 4]),
        ("$..[0]", DESCENT, [5, {"j": 4}]),
        ("$.o..[*, *]", DESCENT, [1, 2, 1, 2]),
        ("$.a..[0, 1]", DESCENT, [5, 3, {"j": 4}, {"k": 6}]),
        # Section 2.6
        ("$.a", NULLS, [None]),
        ("$.a[0]", NULLS, []),
        ("$.b[?@]", NULLS, [None]),
        ("$.b[?@==null]", NULLS, [None]),
        ("$.c[?@.d==null]", NULLS, []),
        ("$.null", NULLS, [1]),
        # Names beyond ASCII and beyond the basic plane
        ("$.评论[0].内容", {"评论": [{"内容": "好"}]}, ["好"]),
        ("$.😀", {"😀": 1}, [1]),
        ("$['\\uD83D\\uDE00']", {"😀": 1}, [1]),
        ("$ ['a'] .b", {"a": {"b": 1}}, [1]),
        # Numbers are numbers, booleans are not
        ("$[?@ == 1.0]", [1, True, 1.0, "1"], [1, 1.0]),
        ("$[?@ == 1e0]", [1], [1]),
        ("$[?@ == -0]", [0], [0]),
        # Scalars and texts are values, not documents to parse
        ("$.a", 5, []),
        ("$", '{"a": 1}', ['{"a": 1}']),
        ("$.*", '{"a": 1}', []),
        ("$[?@.a]", ['{"a": 1}'], []),
    ],
)
async def test_a_path_selects_what_rfc_9535_says(path: str, document: Any, found: Any) -> None:
    values = await compile_path(path).find(document)
    assert values == found
    assert [type(each) for each in values] == [type(each) for each in found]


@pytest.mark.parametrize(
    "path",
    [
        "",
        " $",
        "$ ",
        "a",
        "@.a",
        "$.",
        "$..",
        "$...a",
        "$. a",
        "$.[0]",
        "$[]",
        "$[0,]",
        "$[a]",
        "$[01]",
        "$[-0]",
        "$[1.0]",
        "$[1e2]",
        "$[9007199254740992]",
        "$[" + "9" * 200 + "]",
        "$['a]",
        "$['\\x']",
        "$['\\uD800']",
        "$[$.a]",
        "$[?]",
        "$[?1]",
        "$[?'a']",
        "$[?true]",
        "$[?@.a == 01]",
        "$[?@.a == -01]",
        "$[?@.a == 1.]",
        "$[?@.a == 1e400]",
        "$[?@.a = 1]",
        "$[?@.a == ]",
        "$[?@.a && 1]",
        "$[?@.* == 1]",
        "$[?@..a == 1]",
        "$[?@.a == 1 == 2]",
        "$[?!@.a == 1]",
        "$[?(@.a == 1) == true]",
        "$[?@.a and @.b]",
        "$[?@.a or @.b]",
        "$[?not @.a]",
        "$[?@.a == True]",
        "$[?@.a == None]",
        "$[?@.a == undefined]",
        "$[?length(@.a)]",
        "$[?count(@.a)]",
        "$[?count(1) == 1]",
        "$[?length(@.*) == 1]",
        "$[?length() == 1]",
        "$[?length(@.a, @.b) == 1]",
        "$[?nosuch(@.a) == 1]",
        "$[?value(@.a[?1]) == 1]",
        # python-jsonpath's own additions
        "$[?@.a =~ /b/]",
        "$..[?(@.a=~/(a+)+$/)]",
        "$[?@.a in [1, 2]]",
        "$[?@.a contains 1]",
        "$[?@.a == [1, 2]]",
        "$[?@.a <> 1]",
        "$.~a",
        "$.a.~",
        "$[~'a']",
        "$[~]",
        "$[~?@ == 1]",
        "^.a",
        "$[?^.a]",
        "$[?_.a]",
        "$[?# == 1]",
        "$.a | $.b",
        "$.a & $.b",
        "$[?startswith(@.a, 'b')]",
        "$[?type(@.a) == 'b']",
        "$[?isinstance(@.a, 'b')]",
        # Limits of ours
        "$..a..b..c",
        "$..*" * 20,
        "$[?@..a && @..b && @..c]",
        "$." + "a" * 255,
        "$[?" + "(" * 120 + "@" + ")" * 120 + "]" + " " * 10,
    ],
)
def test_what_is_not_rfc_9535_within_the_limits_is_refused(path: str) -> None:
    with pytest.raises(Invalid) as caught:
        compile_path(path)
    assert caught.value.code == "path_invalid"
    assert caught.value.detail


@pytest.mark.parametrize("function", ["match", "search"])
def test_regular_expressions_are_refused_by_name(function: str) -> None:
    with pytest.raises(Invalid, match=rf"{function}\(\) is not allowed"):
        compile_path(f"$[?{function}(@.a, '(a+)+$')]")


def test_dots_in_texts_are_not_descents() -> None:
    assert compile_path("$['..']['...'][?@.a == '.. .. ..']").text.startswith("$['..']")


def test_a_path_says_what_it_is() -> None:
    assert repr(compile_path("$.a")) == "Path('$.a')"


@given(st.text(alphabet="$@.*[]()?!&|=<>'\"\\~^#_,: -019aeuE+/😀\x00", max_size=40))
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_the_compiler(tail: str) -> None:
    for text in (tail, "$" + tail, "$[?" + tail + "]"):
        with suppress(Invalid):
            assert compile_path(text).text == text


async def test_first_gives_one_value_or_the_default() -> None:
    assert await compile_path("$..author").first(STORE) == "Nigel Rees"
    assert await compile_path("$.store.bicycle.color").first(STORE) == "red"
    assert await compile_path("$.nothing").first(STORE, "else") == "else"
    assert await compile_path("$..nothing").first(STORE) is None
    assert await compile_path("$.a").first({"a": None}, "else") is None


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("$..*", [[[0] * 100] * 100] * 100),
        ("$..[?@..[?@ == 2]]", [[[0] * 100] * 100] * 10),
        ("$[?@ == 2]", [1] * 3_000_000),
        ("$[?@ == 2]", dict.fromkeys(map(str, range(1_000_000)), 1)),
        ("$[?count($..*) == 1]", [[0] * 1000] * 1000),
        ("$[?@ == $[0]]..*", [[0] * 1000] * 1000),
        ("$[::1]", [0] * 3_000_000),
        ("$..['" + "k" * 200 + "','b']", [[{}] * 1000] * 1000),
    ],
    ids=lambda each: each[:20] if isinstance(each, str) else "",
)
async def test_a_path_that_takes_too_long_is_given_up_and_its_thread_ends(
    path: str, document: Any
) -> None:
    compiled = compile_path(path)
    started = time.thread_time()
    with pytest.raises(Invalid) as caught:
        await compiled.find(document, limit_s=0.02)
    assert caught.value.code == "path_too_slow"
    assert time.thread_time() - started < 1  # The loop's own thread did not do the work.
    # The thread is free again: it takes the next task at once.
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 1) == 1


async def test_the_loop_goes_on_while_a_path_is_evaluated() -> None:
    document = [[[0] * 100] * 100] * 100
    search = asyncio.create_task(compile_path("$..*").find(document, limit_s=0.2))
    turns = 0
    while not search.done():
        await asyncio.sleep(0)
        turns += 1
    with pytest.raises(Invalid):
        await search
    assert turns > 10


async def test_a_long_name_is_not_copied_for_every_descendant() -> None:
    # With normalized paths kept, this would hold 10,000 copies of 2 MB.
    document = {"k" * 2_000_000: [[0] for _ in range(10_000)]}
    assert len(await compile_path("$.*[*][0]").find(document, limit_s=5)) == 10_000


async def test_a_document_deeper_than_the_evaluator_goes_is_an_error() -> None:
    document: Any = 0
    for _ in range(150):
        document = [document]
    with pytest.raises(Invalid) as caught:
        await compile_path("$..a").find(document)
    assert caught.value.code == "path_invalid"
