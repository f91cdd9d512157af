"""Quantizers and models from the text of their calls, as `repr` shows them: for command lines.

Text is as safe to read as a JSON description (`as_json`): nothing in it is evaluated.
"""

import ast
import importlib
from collections.abc import Mapping
from typing import Any

from vqvae_jax.saving.as_json import brief, build, first_words

LENGTH = 2**16
"""Limit of a text in characters, far above that of any quantizer."""


def from_text(text: str, names: Mapping[str, Any] | None = None) -> Any:
    """Rebuilds a quantizer or a model from the text of its call: `from_text(repr(q)) == q`.

    Names may have a namespace before them, as in a script.

    Args:
        text: call of a factory or module, whose arguments are calls, names, literals and lists.
        names: the user's own functions, factories and modules by name.

    Raises:
        ValueError: if the text is anything else, holds an unknown name, or the call fails.

    Example:
        >>> from_text("residual(vq(256, 8, init=inits.kmeans()), fsq([5] * 8))")
        Traceback (most recent call last):
        ValueError: expected a call, a name, a literal or a list, found '[5] * 8'
        >>> from_text("project(vj.fsq([8, 5, 5, 5]), dim=64)").vocab
        (1000,)
    """
    if len(text) > LENGTH:
        raise ValueError(f"expected at most {LENGTH} characters, found {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        data = to_data(tree)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"expected a call such as vq(512, 64): {first_words(error)}") from None
    return build(data, names or {})


def to_data(node: ast.expr) -> Any:
    """Converts the syntax tree of a call to its JSON description."""
    match node:
        case ast.Call(function, args, keywords) if all(k.arg for k in keywords):
            described = {"call": bare_name(function), "args": [to_data(x) for x in args]}
            return described | {"kwargs": {str(k.arg): to_data(k.value) for k in keywords}}
        case ast.Name() | ast.Attribute():
            return {"name": bare_name(node)}
        case ast.List(items) | ast.Tuple(items):
            return [to_data(x) for x in items]
        case ast.Constant(None | bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
            return -value
    raise ValueError(
        f"expected a call, a name, a literal or a list, found {brief(ast.unparse(node))}"
    )


def bare_name(node: ast.expr) -> str:
    """Returns the name without the namespaces before it, which must be those of this package."""
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(ast.Name() | ast.Attribute() as before, name):
            package = importlib.import_module("vqvae_jax")
            if bare_name(before) in {"vj", "vqvae_jax", *package.NAMESPACES}:
                return name
    raise ValueError(f"expected a name of vqvae_jax, found {brief(ast.unparse(node))}")
