"""Scores replies with a downloaded adapter, by running the program in its model card."""

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
_LIBRARIES = ("torch", "transformers", "peft", "huggingface_hub")

Prompt = str | Sequence[dict[str, str]]


class RewardModel:
    """A base model that is loaded with its adapter.

    ``reward_model.model.to("cuda")`` moves it to a GPU.
    """

    def __init__(self, program: Any, names: dict[str, Any]) -> None:
        self._program = program
        self._names = names
        self.facts: dict[str, Any] = names["facts"]
        """The content of ``reward_model.json``."""

    @property
    def model(self) -> Any:
        """The PEFT model that the card's program loaded."""
        return self._names["model"]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that the card's program loaded."""
        return self._names["tokenizer"]

    def score(
        self, prompt: Prompt, replies: Sequence[str], *, batch_size: int = BATCH_SIZE
    ) -> list[float]:
        """Return the raw reward of each reply to a prompt, in order. Higher is better.

        Args:
            prompt: messages with ``role`` and ``content``, or a text; ``facts["data_format"]`` says
                which of them the adapter was trained on.
            replies: the texts to score.
            batch_size: number of replies per forward pass.

        Raises:
            TypeError: ``replies`` is not a list of texts.
            ValueError: the prompt does not have the format that the adapter was trained on, or a
                text is longer than the adapter's limit.
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
            raise TypeError("replies must be a list of texts.")
        is_text = isinstance(prompt, str)
        if is_text != (self.facts.get("data_format") == "text"):
            expected = "a list of messages" if is_text else "a text"
            raise ValueError(f"The prompt must be {expected}, as in the adapter's training data.")


def load_reward_model(
    directory: str | os.PathLike[str], base: str | os.PathLike[str] | None = None
) -> RewardModel:
    """Load a downloaded adapter with the program in its model card.

    The same program tokenises and scores, so that scores are those of the card. It is run only if
    a check finds that it does nothing but load and score.

    Args:
        directory: the adapter's files, as ``client.adapters.download`` saves them.
        base: the directory of the base model's files; None: download it from the hub, if the model
            card names a model there.

    Raises:
        ModelCardError: the card has no scoring program, or its program does anything else.
        MissingDependencyError: torch, transformers, peft or huggingface_hub is not installed.
        NotADirectoryError: ``base`` is not a directory.
    """
    directory = Path(directory).resolve()
    program = read_program(_card(directory), _base(base))
    for name in _LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"load_reward_model requires {name}.", hint="Install the client's extra 'torch'."
            )
    names: dict[str, Any] = {"adapter": directory}
    logging = importlib.import_module("transformers").logging
    verbosity = logging.get_verbosity()
    try:
        with warnings.catch_warnings():  # undo the warning filters that the program sets
            exec(_compiled(program.loading, directory), names)  # noqa: S102 - checked
    finally:
        logging.set_verbosity(verbosity)
    return RewardModel(_compiled(program.scoring, directory), names)


def _base(base: str | os.PathLike[str] | None) -> str | None:
    if base is None:
        return None
    path = Path(base)
    if not path.is_dir():
        raise NotADirectoryError(f"base must be the directory of a base model; {path} is not one.")
    return str(path.resolve())


def _card(directory: Path) -> str:
    try:
        return (directory / CARD).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        merged = _is_merged(directory)
        hint = (
            "The directory holds a merged model: load it with transformers."
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
