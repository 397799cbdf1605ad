from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.api_keys import service as api_keys
from app.auth.key_ring import Scope
from app.core.database import make_engine, transaction
from app.core.migrations import migrate
from app.core.settings import Settings
from tests.deployed import embedded_service
from tests.model_factories.orders import TinyBase
from tests.model_factories.tiny_models import make_decoder
from tests.scoring.stage import TENANT, Stage, Trained, publish, train_adapter


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
    """`plaudit serve` on SQLite, without a worker."""
    folder = tmp_path_factory.mktemp("service")
    catalogue = folder / "models.yaml"
    catalogue.write_text(yaml.safe_dump({"tiny": {"source": f"local:{tiny.directory}"}}))
    settings = Settings(data_dir=folder / "data", base_models=catalogue)
    engine = make_engine(settings.database)
    migrate(engine)
    ids = {name: publish(engine, settings, adapter) for name, adapter in trained.items()}
    # Says that its base model had other files.
    damaged = publish(engine, settings, trained["chat"], base_model_sha256="0" * 64)
    with transaction(engine) as session:
        key = api_keys.create(session, TENANT, "a test", [Scope.SCORES_WRITE]).token
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PLAUDIT_")},
        "PLAUDIT_BASE_MODELS": str(catalogue),
        "PLAUDIT_SCORING_MODEL": ids["chat"],
        "OMP_NUM_THREADS": "1",
    }
    with embedded_service(environment, folder, options=["--no-worker"]) as running:
        running.client.headers["Authorization"] = f"Bearer {key}"
        yield Stage(running.client, engine, settings, key, damaged=damaged, trained=trained, **ids)
    engine.dispose()
