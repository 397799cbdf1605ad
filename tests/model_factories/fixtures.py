"""Fixtures of the reward model's and the trainer's tests; their conftest files import them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model_factories.orders import TinyBase
from tests.model_factories.tiny_models import make_decoder, minilm_dir
from tests.model_factories.trainer_process import RecordingChannel


@pytest.fixture
def channel() -> RecordingChannel:
    return RecordingChannel()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change into a work directory, as a trainer does."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    """A random Llama of two layers."""
    directory = make_decoder(tmp_path_factory.mktemp("llama") / "base")
    return TinyBase.of(directory, directory.parent / "files")


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> TinyBase:
    """A real encoder."""
    return TinyBase.of(minilm_dir(), tmp_path_factory.mktemp("minilm") / "files")
