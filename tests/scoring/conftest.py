from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model_factories.orders import TinyBase
from tests.model_factories.tiny_models import make_decoder
from tests.scoring.stage import Stage, Trained, running_stage, train_adapter


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    directory = make_decoder(tmp_path_factory.mktemp("tiny") / "base")
    return TinyBase.of(directory, directory.parent / "files")


@pytest.fixture(scope="session")
def trained(tiny: TinyBase, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Two adapters for chats and one for plain text."""
    orders: dict[str, dict[str, Any]] = {
        "chat": {},
        "other_chat": {"lora": {"r": 2}},
        "text": {"text": True},
    }
    found, before = {}, Path.cwd()
    try:
        for name, order in orders.items():
            work = tmp_path_factory.mktemp(name)
            os.chdir(work)
            found[name] = train_adapter(tiny, work, **order)
    finally:
        os.chdir(before)
    return found


@pytest.fixture(scope="session")
def stage(
    tiny: TinyBase, trained: dict[str, Trained], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """`plaudit serve` on SQLite, with a worker, which scores datasets."""
    with running_stage(tiny, trained, tmp_path_factory.mktemp("service")) as stage:
        yield stage
