"""Adapters of the first release stay scorable, by the service and by the client.

tests/scoring/first_release/ has a base model and two adapters made by the code of the first release
(the schema of tests/test_upgrade.py), with their rows in the database.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import make_engine, transaction
from app.core.migrations import migrate
from app.core.settings import Settings
from plaudit.scoring import load_reward_model
from tests.deployed import embedded_service
from tests.scoring.stage import TENANT, Trained, publish

HERE = Path(__file__).parent / "first_release"
BASE = HERE / "base"
NAMES = ("chat", "text")
PROMPTS = {
    "chat": [{"role": "user", "content": "please tell me about tea ?"}],
    "text": "please tell me about tea ? ",
}
REPLIES = ["the answer about tea is kind and clear .", "the answer about tea is rude ."]
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def stored(name: str) -> Trained:
    """An adapter as the first release stored it."""
    row = json.loads((HERE / f"{name}.json").read_text())
    return Trained(HERE / name, row["summary"], row["certificate"], row["metrics"])


@pytest.fixture(scope="module")
def adapters(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[httpx.Client, dict[str, str]]]:
    """Today's service with the stored adapters: a client, and the ids by name."""
    folder = tmp_path_factory.mktemp("service")
    catalogue = folder / "models.yaml"
    catalogue.write_text(yaml.safe_dump({"tiny": {"source": f"local:{BASE}"}}))
    settings = Settings(data_dir=folder / "data", base_models=catalogue)
    engine = make_engine(settings.database)
    migrate(engine)
    ids = {name: publish(engine, settings, stored(name)) for name in NAMES}
    with transaction(engine) as session:
        key = api_keys.create(session, TENANT, "a test", [Scope.ADMIN]).token
    engine.dispose()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PLAUDIT_")},
        "PLAUDIT_BASE_MODELS": str(catalogue),
        "OMP_NUM_THREADS": "1",
    }
    with embedded_service(environment, folder, options=["--no-worker"]) as running:
        running.client.headers["Authorization"] = f"Bearer {key}"
        yield running.client, ids


@pytest.mark.parametrize("name", NAMES)
def test_scorer_gives_the_scores_that_were_certified_then(
    adapters: tuple[httpx.Client, dict[str, str]], name: str
) -> None:
    client, ids = adapters
    texts = stored(name).texts
    assert len(texts) >= 16
    inputs = [{"text": text} for text in texts]
    answer = client.post("/v1/score", json={"model": ids[name], "inputs": inputs})
    assert answer.status_code == 200, answer.text
    scores = [item["scores"][0] for item in answer.json()["data"]]
    assert scores == pytest.approx(list(texts.values()), abs=1e-5)
    assert max(scores) - min(scores) > 0.01  # a lost head would give other scores


@pytest.mark.parametrize("name", NAMES)
def test_client_and_service_score_alike(
    adapters: tuple[httpx.Client, dict[str, str]], name: str
) -> None:
    client, ids = adapters
    groups = [{"prompt": PROMPTS[name], "responses": REPLIES}]
    answer = client.post("/v1/score", json={"model": ids[name], "groups": groups})
    assert answer.status_code == 200, answer.text
    (group,) = answer.json()["data"]
    at_home = load_reward_model(HERE / name, base=BASE).score(PROMPTS[name], REPLIES)
    assert group["scores"] == pytest.approx(at_home, abs=1e-5)
    assert at_home[0] != at_home[1]


def test_page_and_downloads_know_them(adapters: tuple[httpx.Client, dict[str, str]]) -> None:
    client, ids = adapters
    for name, adapter_id in ids.items():
        shown = client.get(f"/v1/adapters/{adapter_id}").json()
        assert {file["name"] for file in shown["files"]} == {
            p.name for p in (HERE / name).iterdir()
        }
        assert shown["certificate"]["is_verified"] is True
