"""JSON from strangers: parsed within limits, searched by RFC 9535 within a time, filled into forms.

Paths and documents both come from outside (settings, providers, sources), so every way in has a
bound: bytes and depth of a document, characters and ``..`` of a path, seconds of an evaluation.
The evaluator is python-jsonpath in its strict mode. What that still accepts beyond the RFC (list
literals, ``<>``, chained comparisons) is refused by walking the compiled query, and regular
expressions (``match()`` and ``search()``) are refused because they could run for ever.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from math import isinf
from typing import Any, TypeVar, cast

from jsonpath import JSONPath, JSONPathEnvironment, JSONPathMatch
from jsonpath.exceptions import JSONPathError
from jsonpath.filter import (
    BaseExpression,
    BooleanLiteral,
    FilterQuery,
    FloatLiteral,
    FunctionExtension,
    InfixExpression,
    IntegerLiteral,
    Nil,
    PrefixExpression,
    StringLiteral,
)
from jsonpath.lex import Lexer
from jsonpath.selectors import Filter
from jsonpath.token import TOKEN_DDOT, TOKEN_FLOAT, TOKEN_FUNCTION, TOKEN_INT
from pydantic_core import from_json

from limner.core.errors import Invalid, TooLarge
from limner.core.thread_time import ThreadTime

T = TypeVar("T")

MAX_PATH_CHARACTERS = 256
MAX_DESCENTS = 2
MAX_DOCUMENT_BYTES = 5_000_000
MAX_DEPTH = 64
LIMIT_S = 0.1

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_CONTAINERS = (list, dict)
_LITERALS = (StringLiteral, IntegerLiteral, FloatLiteral, BooleanLiteral, Nil)

# An escape sequence: a surrogate pair, a lone surrogate (group 1), or anything else.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
# Digits, exponents and signs alone: to find numbers that may be infinite without a regular
# expression, which on long runs of digits would take seconds.
_KEPT = dict.fromkeys(b"0123456789", ord("0")) | dict.fromkeys(b"eE", ord("e")) | {43: ord("+")}
_SHAPES = bytes(_KEPT.get(each, ord(" ")) for each in range(256))


def parse_json(data: bytes, max_bytes: int = MAX_DOCUMENT_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Parse one JSON text (RFC 8259, UTF-8, with or without a byte order mark).

    Of a name that occurs twice the last value counts. A lone surrogate, which programs that cut
    UTF-16 in half do send, becomes U+FFFD: it could be stored nowhere. Holds the interpreter for
    its whole time; give anything over some 64 kB to a thread.

    Raises:
        TooLarge: more than ``max_bytes`` bytes.
        Invalid: no JSON, deeper than ``max_depth`` arrays and objects, or a number that is not
            finite (NaN, Infinity, 1e999).
    """
    if len(data) > max_bytes:
        raise TooLarge(f"the JSON text is over {max_bytes} bytes", code="json_too_large")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        document = from_json(data, allow_inf_nan=False)
    except ValueError:
        document = _parse_mended(data)
    _check(document, max_depth, numbers=_maybe_infinite(data))
    return document


def _maybe_infinite(data: bytes) -> bool:
    """Say whether ``data`` holds an exponent of three digits, or more digits than a double has.

    Nothing else can become infinite: 200 digits and an exponent below 100 stay under 1e308.
    """
    shapes = data.translate(_SHAPES)
    return b"e000" in shapes or b"e+000" in shapes or b"0" * 200 in shapes


def _check(document: Any, max_depth: int, *, numbers: bool) -> None:
    """Refuse what is too deep, level by level, and with ``numbers`` what is infinite."""
    level = [document]
    for depth in range(max_depth + 1):
        if numbers and any(isinstance(each, float) and isinf(each) for each in level):
            raise Invalid("a number in the JSON text is not finite", code="not_json")
        containers = [each for each in level if isinstance(each, _CONTAINERS)]
        if not containers:
            return
        if depth < max_depth:
            level = [
                child
                for each in containers
                for child in (each if isinstance(each, list) else each.values())
                if numbers or isinstance(child, _CONTAINERS)
            ]
    raise Invalid(f"the JSON text is deeper than {max_depth} levels", code="json_too_deep")


def _parse_mended(data: bytes) -> Any:
    def mend(match: re.Match[bytes]) -> bytes:
        return rb"\ufffd" if match.group(1) else match.group()

    try:
        return from_json(_ESCAPE.sub(mend, data), allow_inf_nan=False)
    except ValueError as error:
        raise Invalid(f"not JSON: {error}", code="not_json") from None


_budget: ContextVar[ThreadTime] = ContextVar("jsonpath_budget")


class _Node(JSONPathMatch):
    """A match that keeps its value alone and asks the budget for every child.

    Neither parents' lists of children nor normalized paths are kept: a document with one very
    long name would otherwise be copied once per descendant.
    """

    __slots__ = ("_spend",)

    def __init__(self, obj: object, root: Any, spend: Callable[[], None]) -> None:
        self._filter_context = {}
        self.obj = obj
        self.root = root
        self._spend = spend

    def new_child(self, obj: object, key: int | str) -> JSONPathMatch:
        self._spend()
        return _Node(obj, self.root, self._spend)

    def add_child(self, *children: JSONPathMatch) -> None:
        """Keep nothing."""


class _Query(JSONPath):
    """A query, at the top or inside a filter, whose nodes are ``_Node``."""

    __slots__ = ()

    def finditer(self, data: Any, *, filter_context: object = None) -> Iterable[JSONPathMatch]:
        """Give the nodes lazily; ``data`` is a value, never a JSON text."""
        nodes: Iterable[JSONPathMatch] = [_Node(data, data, _budget.get().spend)]
        for segment in self.segments:
            nodes = segment.resolve(nodes)
        return nodes


class _Lexer(Lexer):
    # As RFC 9535 section 2.5.1.1 has it; the library's own stops at the basic plane.
    key_pattern = (
        "[\u0080-\ud7ff\ue000-\U0010ffffa-zA-Z_][\u0080-\ud7ff\ue000-\U0010ffffa-zA-Z0-9_]*"
    )


class _Environment(JSONPathEnvironment):
    lexer_class = _Lexer

    def __init__(self) -> None:
        super().__init__(strict=True)

    def setup_function_extensions(self) -> None:
        """Leave the regular expressions out."""
        super().setup_function_extensions()
        del self.function_extensions["match"], self.function_extensions["search"]

    def getitem(self, obj: Any, key: Any) -> Any:
        """Give no characters: a slice selects from arrays alone."""
        return () if isinstance(obj, str) else super().getitem(obj, key)

    def is_truthy(self, obj: object) -> bool:
        """Ask the budget too: a filter that selects nothing makes no nodes."""
        _budget.get().spend()
        return super().is_truthy(obj)


_environment = _Environment()


class Path:
    """A compiled JSONPath; immutable, safe to share between threads."""

    def __init__(self, text: str, query: _Query) -> None:
        self.text = text
        self._query = query
        # A query of names and indices alone costs less than the way to a thread and back.
        self._single = query.singular_query()

    def __repr__(self) -> str:
        return f"Path({self.text!r})"

    async def find(self, document: Any, *, limit_s: float = LIMIT_S) -> list[Any]:
        """Give the values the path selects in ``document``, in the order of RFC 9535.

        Raises:
            Invalid: not done after ``limit_s`` seconds of processor time.
        """
        return await self._run(lambda: [*self._values(document)], limit_s)

    async def first(self, document: Any, default: Any = None, *, limit_s: float = LIMIT_S) -> Any:
        """Give the first value the path selects, or ``default``; no further one is looked for.

        Raises:
            Invalid: not done after ``limit_s`` seconds of processor time.
        """
        return await self._run(lambda: next(self._values(document), default), limit_s)

    def _values(self, document: Any) -> Iterator[Any]:
        return (node.obj for node in self._query.finditer(document))

    async def _run(self, search: Callable[[], T], limit_s: float) -> T:
        if self._single:
            return _within(search, limit_s)
        return await asyncio.to_thread(_within, search, limit_s)


def _within(search: Callable[[], T], limit_s: float) -> T:
    """Run ``search`` under a budget, in the calling thread, which so really ends."""
    token = _budget.set(ThreadTime(limit_s))
    try:
        return search()
    except JSONPathError as error:
        raise Invalid(
            f"the path cannot be evaluated: {error.args[0]}", code="path_invalid"
        ) from None
    finally:
        _budget.reset(token)


@lru_cache(maxsize=512)
def compile_path(text: str) -> Path:
    """Compile a path of RFC 9535.

    Raises:
        Invalid: longer than 256 characters, more than two ``..``, ``match()`` or ``search()``, or
            anything that the RFC's grammar and types do not allow.
    """
    if len(text) > MAX_PATH_CHARACTERS:
        raise Invalid(
            f"the path is over {MAX_PATH_CHARACTERS} characters long", code="path_invalid"
        )
    try:
        _check_tokens(text)
        # Strict mode knows no unions and intersections, the other thing that compile() gives.
        compiled = cast("JSONPath", _environment.compile(text))
        return Path(text, _admit_query(compiled))
    except (JSONPathError, ValueError, OverflowError) as error:
        reason = error.args[0]  # The library's str() fails for some places of the error.
        raise Invalid(f"not a path of RFC 9535: {reason}", code="path_invalid") from None


def _check_tokens(text: str) -> None:
    descents = 0
    for token in _environment.lexer.tokenize(text):
        if token.kind == TOKEN_DDOT:
            descents += 1
        elif token.kind == TOKEN_FUNCTION and token.value in {"match", "search"}:
            raise Invalid(f"{token.value}() is not allowed in a path", code="path_invalid")
        elif token.kind in (TOKEN_INT, TOKEN_FLOAT) and not _NUMBER.fullmatch(token.value):
            raise Invalid(
                f"not a path of RFC 9535: {token.value!r} is no number", code="path_invalid"
            )
    if descents > MAX_DESCENTS:
        raise Invalid(f'a path has at most {MAX_DESCENTS} ".."', code="path_invalid")


def _admit_query(path: JSONPath) -> _Query:
    """Check every filter below ``path`` against the grammar of section 2.3.5 and rebuild it."""
    for segment in path.segments:
        for selector in segment.selectors:
            if isinstance(selector, Filter):
                _admit_logical(selector.expression.expression)
    return _Query(env=path.env, segments=path.segments)


def _admit_logical(expression: BaseExpression) -> None:
    match expression:
        case InfixExpression(operator="&&" | "||"):
            _admit_logical(expression.left)
            _admit_logical(expression.right)
        case InfixExpression() if expression.operator in _COMPARISONS:
            _admit_comparable(expression.left)
            _admit_comparable(expression.right)
        case PrefixExpression():
            _admit_logical(expression.right)
        case FilterQuery():
            expression.path = _admit_query(expression.path)
        case _:
            raise ValueError(f"{expression} is neither a comparison nor a test")


def _admit_comparable(expression: BaseExpression) -> None:
    match expression:
        case FilterQuery():  # The library has checked that it is singular.
            expression.path = _admit_query(expression.path)
        case FunctionExtension():
            for argument in expression.args:
                _admit_comparable(argument)
        case _ if not isinstance(expression, _LITERALS):
            raise ValueError(f"{expression} cannot be compared")


async def fill(template: Any, values: Mapping[str, Any], *, limit_s: float = LIMIT_S) -> Any:
    """Give ``template`` with each string that begins with ``$`` replaced by what it points to.

    Such a string is a path into ``values``, and the first value it selects takes its place with
    its own type. ``$$`` at the beginning stands for one literal ``$``. Names of objects and all
    other values stay as they are.

    Raises:
        Invalid: paths that are wrong or select nothing, all at once, each with the JSON Pointer
            (RFC 6901) of its place in the template; or ``limit_s`` seconds of processor time
            were not enough.
    """
    faults: list[tuple[str, str]] = []
    filled = await asyncio.to_thread(_within, lambda: _fill(template, values, "", faults), limit_s)
    if faults:
        raise Invalid(
            "; ".join(f"{pointer or '/'}: {reason}" for pointer, reason in faults[:3]),
            code="template_invalid",
            faults=faults,
        )
    return filled


_MISSING = object()


def _fill(
    template: Any, values: Mapping[str, Any], pointer: str, faults: list[tuple[str, str]]
) -> Any:
    match template:
        case dict():
            return {
                name: _fill(each, values, f"{pointer}/{_reference(name)}", faults)
                for name, each in template.items()
            }
        case list():
            return [
                _fill(each, values, f"{pointer}/{index}", faults)
                for index, each in enumerate(template)
            ]
        case str() if template.startswith("$$"):
            return template[1:]
        case str() if template.startswith("$"):
            try:
                path = compile_path(template)
            except Invalid as error:
                faults.append((pointer, error.detail))
                return None
            found = next(path._values(values), _MISSING)  # noqa: SLF001 - under one budget
            if found is _MISSING:
                faults.append((pointer, f"{template} selects nothing"))
            return found
        case _:
            return template


def _reference(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
