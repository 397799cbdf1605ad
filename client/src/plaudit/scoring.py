"""Score replies with a downloaded adapter, exactly as its model card does."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plaudit._card import read_program
from plaudit.errors import MissingDependencyError, ModelCardError

CARD, SUMMARY = "README.md", "reward_model.json"
BATCH_SIZE = 8
_NEEDED = ("torch", "transformers", "peft", "huggingface_hub")

Prompt = str | Sequence[dict[str, str]]


class RewardModel:
    """A loaded base model with its adapter. ``model`` and ``tokenizer`` are those of the card's
    program: ``reward_model.model.to("cuda")`` moves it."""

    def __init__(self, program: Any, names: dict[str, Any]) -> None:
        self._program = program
        self._names = names
        self.facts: dict[str, Any] = names["facts"]
        """``reward_model.json``."""

    @property
    def model(self) -> Any:
        """The PEFT model."""
        return self._names["model"]

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self._names["tokenizer"]

    def score(
        self, prompt: Prompt, replies: Sequence[str], *, batch_size: int = BATCH_SIZE
    ) -> list[float]:
        """Raw rewards of replies to one prompt, in their order: a higher one is a better reply.

        Args:
            prompt: messages with ``role`` and ``content``, or text, as the adapter was trained;
                ``facts["data_format"]`` says which.
            replies: texts.
            batch_size: how many are scored at once.

        Raises:
            TypeError, ValueError: the prompt is not of the adapter's format.
        """
        self._check(prompt, replies)
        scores: list[float] = []
        for start in range(0, len(replies), batch_size):
            batch = list(replies[start : start + batch_size])
            names = {**self._names, "prompt": prompt, "replies": batch}
            exec(self._program, names)  # noqa: S102 - checked by read_program
            scores += [float(value) for value in names["scores"].tolist()]
        return scores

    def _check(self, prompt: Prompt, replies: Sequence[str]) -> None:
        if isinstance(replies, str) or not all(isinstance(reply, str) for reply in replies):
            raise TypeError("replies is a list of texts.")
        is_text = isinstance(prompt, str)
        if is_text != (self.facts.get("data_format") == "text"):
            wanted = "messages" if is_text else "a text"
            raise ValueError(f"This adapter was trained on other prompts: give {wanted}.")


def load_reward_model(
    directory: str | os.PathLike[str], base: str | os.PathLike[str] | None = None
) -> RewardModel:
    """Load a downloaded adapter, by the program in its model card.

    Nothing is tokenised or scored in any other way than there. The program is run only if it does
    nothing but load and score.

    Args:
        directory: of the adapter's files, as ``client.adapters.download`` leaves them.
        base: directory of the base model's files; None: from the hub, where the card says so.

    Raises:
        ModelCardError: there is no such program, or it does something else.
        MissingDependencyError: torch, transformers or peft is not installed.
    """
    directory = Path(directory).resolve()
    program = read_program(_card(directory), _base(base))
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"load_reward_model needs {name}.", hint="Install the client's extra 'torch'."
            )
    names: dict[str, Any] = {"adapter": directory}
    logging = importlib.import_module("transformers").logging
    verbosity = logging.get_verbosity()
    try:
        with warnings.catch_warnings():  # the program's filters end with it
            exec(_compiled(program.loading, directory), names)  # noqa: S102 - checked
    finally:
        logging.set_verbosity(verbosity)
    return RewardModel(_compiled(program.scoring, directory), names)


def _base(base: str | os.PathLike[str] | None) -> str | None:
    if base is None:
        return None
    path = Path(base)
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is no directory of a base model.")
    return str(path.resolve())


def _card(directory: Path) -> str:
    try:
        return (directory / CARD).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        merged = _is_merged(directory)
        hint = (
            "It is a merged model: load it with transformers alone."
            if merged
            else "Download the adapter with client.adapters.download."
        )
        raise ModelCardError(f"{directory} has no model card {CARD}.", hint=hint) from error


def _is_merged(directory: Path) -> bool:
    try:
        return bool(json.loads((directory / SUMMARY).read_text()).get("is_merged"))
    except (OSError, ValueError, AttributeError):
        return False


def _compiled(module: ast.Module, directory: Path) -> Any:
    return compile(ast.fix_missing_locations(module), str(directory / CARD), "exec")
