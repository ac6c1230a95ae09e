"""Counts the lines of code that deal with failure, by the marks in the source. It must not know whose source it is.

A region stands between the comments `# failure handling: begin` and `# failure handling: end`; a single line ends in
`# failure handling`. Blank lines, comments and docstrings are not counted, marked or not.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable
from pathlib import Path

_BEGIN, _END, _LINE = "# failure handling: begin", "# failure handling: end", "# failure handling"
_NO_CODE = frozenset(
    {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)


def count_in(files: Iterable[Path]) -> int:
    """Return how many marked lines of code these files have together.

    Raises:
        ValueError: a region is left open or closed twice; the message says where.
    """
    return sum(count_marked(file.read_text(), name=file.name) for file in files)


def count_marked(source: str, *, name: str = "<source>") -> int:
    """Return how many lines of code of one module are marked.

    Raises:
        ValueError: a region is left open or closed twice; the message says where.
    """
    code: set[int] = set()
    marked: set[int] = set()
    begun: int | None = None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type not in _NO_CODE:
            code.update(range(line, token.end[0] + 1))
        elif token.string == _BEGIN:
            if begun is not None:
                raise ValueError(f"{name}:{line}: a region begins inside the one of line {begun}: end that one first")
            begun = line
        elif token.string == _END:
            if begun is None:
                raise ValueError(f"{name}:{line}: a region ends that never began: write `{_BEGIN}` above it")
            marked.update(range(begun, line))
            begun = None
        elif token.string == _LINE:
            marked.add(line)
    if begun is not None:
        raise ValueError(f"{name}:{begun}: a region begins and never ends: write `{_END}` below it")
    return len((code - _docstring_lines(source)) & marked)


def _docstring_lines(source: str) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and first.value.value.__class__ is str
            ):
                lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines
