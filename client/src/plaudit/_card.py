"""Reads and checks the scoring program in an adapter's model card.

A model card is untrusted input. Its program is run only if it contains nothing but the elements of
a scoring program: imports of known classes, loading files from the paths that the caller gives,
tokenising and scoring texts. Everything else is refused, even if it is harmless.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from plaudit.errors import ModelCardError

_PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Variables of the program that are set for each call, and the variable that holds the result.
_INPUTS, _RESULT = ("prompt", "replies"), "scores"

_IMPORTS = {
    "": {"json", "torch", "warnings"},
    "pathlib": {"Path"},
    "huggingface_hub": {"snapshot_download"},
    "peft": {"PeftModel"},
    "transformers": {
        "AutoModelForSequenceClassification",
        "AutoTokenizer",
        "BitsAndBytesConfig",
        "logging",
    },
}
_LOADED = {"tokenizer", "model"}
_FUNCTIONS = _LOADED | {"Path", "BitsAndBytesConfig", "ValueError", "print", "snapshot_download"}
_LOADERS = {
    "AutoModelForSequenceClassification.from_pretrained",
    "AutoTokenizer.from_pretrained",
    "PeftModel.from_pretrained",
}
_MODULES = {"torch", "json", "warnings", "logging"}
_OF_MODULES = {
    "json.loads",
    "logging.set_verbosity_error",
    "torch.inference_mode",
    "warnings.filterwarnings",
}
_METHODS = {"apply_chat_template", "eval", "get_text_config", "pad", "read_text", "to", "tolist"}
#: Arguments that loaders may have. Others could run code from the files, or load other files.
_LOADER_ARGUMENTS = {
    "attn_implementation",
    "dtype",
    "experts_implementation",
    "ignore_mismatched_sizes",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "quantization_config",
    "return_dict",
    "torchscript",
}
_NODES = (
    ast.Module, ast.Import, ast.ImportFrom, ast.alias, ast.Assign, ast.Expr, ast.With,
    ast.withitem, ast.Call, ast.keyword, ast.Name, ast.Attribute, ast.Subscript, ast.Slice,
    ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.comprehension, ast.Starred,
    ast.BinOp, ast.Add, ast.Sub, ast.Div, ast.UnaryOp, ast.USub, ast.Load, ast.Store,
    ast.If, ast.Compare, ast.Gt, ast.Raise,
)  # fmt: skip


@dataclass(frozen=True)
class CardProgram:
    """A checked program, split into loading and scoring."""

    loading: ast.Module
    """Loads tokenizer and model. The variable ``adapter``, a path, must be set before."""
    scoring: ast.Module
    """Sets ``scores`` from ``prompt`` and ``replies``."""


def program_text(card: str) -> str:
    """Return the source of the card's program.

    Raises:
        ModelCardError: the card contains no program.
    """
    found = _PROGRAM.search(card)
    if found is None:
        raise ModelCardError("The model card contains no scoring program.")
    return found[1]


def read_program(card: str, base: str | None) -> CardProgram:
    """Return the card's program, checked, for the base model in the directory ``base``.

    Raises:
        ModelCardError: the card has no program, the program is not a scoring program or does more
            than load and score, or ``base`` is None and the card does not name a model on a hub.
    """
    try:
        tree = ast.parse(program_text(card))
    except SyntaxError as error:
        raise ModelCardError(f"The model card's program is not valid Python: {error}.") from error
    for node in ast.walk(tree):
        _check(node)
    _check_names(tree)
    if base is not None:
        _assignment(tree, "base").value = ast.Constant(base)
    elif not isinstance(_assignment(tree, "base").value, ast.Call):  # an example path, no download
        raise ModelCardError(
            "The adapter's base model is not on a hub.",
            hint="Give base=…, the directory of the base model's files.",
        )
    _assignment(tree, _RESULT)
    inputs = [_assignment(tree, name) for name in _INPUTS]
    dropped = [_assignment(tree, "adapter"), *inputs]
    if not all(node in tree.body for node in dropped):
        raise ModelCardError("The model card's program sets its inputs inside a block.")
    boundary = min(tree.body.index(node) for node in inputs)
    loading, scoring = (
        ast.Module([node for node in part if node not in dropped and not _prints(node)], [])
        for part in (tree.body[:boundary], tree.body[boundary:])
    )
    return CardProgram(loading, scoring)


def _check(node: ast.AST) -> None:
    if not isinstance(node, _NODES):
        raise _refused(node, f"it has a {type(node).__name__}")
    match node:
        case ast.Import(names=names):
            _check_imports(node, "", names)
        case ast.ImportFrom(module=module, names=names, level=0):
            _check_imports(node, module or "", names)
        case ast.ImportFrom():
            raise _refused(node, "it has a relative import")
        case ast.Call():
            _check_call(node)
        case ast.If() | ast.Raise() if not _checks_length(node):
            raise _refused(node, f"it has {ast.unparse(node)!r}")
        case ast.Attribute(attr=name) | ast.Name(id=name) if name.startswith("_"):
            raise _refused(node, f"it uses {name}")
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id=name))) if name in _MODULES:
            raise _refused(node, f"it uses {ast.unparse(node)}")


def _checks_length(node: ast.If | ast.Raise) -> bool:
    """Return whether a statement is the one with which programs reject overlong texts."""
    match node:
        case ast.If(test=ast.Compare(), body=[ast.Raise()], orelse=[]):
            return True
        case ast.Raise(exc=ast.Call(func=ast.Name(id="ValueError")), cause=None):
            return True
    return False


def _check_imports(node: ast.AST, module: str, names: list[ast.alias]) -> None:
    for alias in names:
        if alias.name not in _IMPORTS.get(module, ()) or alias.asname is not None:
            raise _refused(node, f"it has {ast.unparse(node)!r}")


def _check_call(node: ast.Call) -> None:
    called = ast.unparse(node.func)
    match node.func:
        case ast.Name(id=name):
            is_known = name in _FUNCTIONS
        case (
            ast.Attribute(value=ast.Name(id="torch" | "json" | "warnings" | "logging"))
            | ast.Attribute(attr="from_pretrained")
        ):
            is_known = called in _LOADERS | _OF_MODULES
        case ast.Attribute(attr=name):
            is_known = name in _METHODS
        case _:
            is_known = False
    if not is_known:
        raise _refused(node, f"it calls {called}")
    for keyword in node.keywords:
        is_refused = keyword.arg is None and called != "model"
        if is_refused or (called in _LOADERS and keyword.arg not in _LOADER_ARGUMENTS):
            raise _refused(node, f"it passes {keyword.arg or '**'} to {called}")
    # Only the paths of the caller, or the model on the hub that the card names, may be loaded.
    if called in _LOADERS and not all(isinstance(value, ast.Name) for value in node.args):
        raise _refused(node, f"it passes something other than a variable to {called}")
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    if called == "snapshot_download" and not all(isinstance(v, ast.Constant) for v in values):
        raise _refused(node, "it passes something other than a constant to snapshot_download")


def _check_names(tree: ast.Module) -> None:
    """Refuse assignments to names that the program imports or calls, except loading a model."""
    loaded = [
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
    ]
    protected = _FUNCTIONS | set().union(*_IMPORTS.values())
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) if name in protected:
                if name not in _LOADED or not any(node is target for target in loaded):
                    raise _refused(node, f"it sets {name}")


def _assignment(tree: ast.Module, name: str) -> ast.Assign:
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    ]
    if len(found) != 1:
        raise ModelCardError(f"The model card's program must set {name} exactly once.")
    return found[0]


def _prints(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Call(func=ast.Name(id="print"))):
            return True
    return False


def _refused(node: ast.AST, reason: str) -> ModelCardError:
    line = getattr(node, "lineno", "?")
    return ModelCardError(
        f"The model card's program was not run: {reason} (line {line}).",
        hint="Plaudit's own programs only load and score. Read this one before you run it.",
    )
