"""Downloads of a split from a hub that misbehaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.base_models import hub as hub_client
from app.base_models.catalogue import HubSource
from app.base_models.errors import ModelNotFoundError, SourceUnavailableError
from app.core.settings import Settings
from app.datasets.hub_files import SourceNotFoundError, download_split, look_up_split
from tests.base_models.model_sources import Hub, hub
from tests.world import pairs

__all__ = ["hub"]

SOURCE = HubSource("acme/pairs", "main")


class StoppedError(Exception):
    """The owner cancelled the import."""


@pytest.fixture
def settings(hub: Hub) -> Settings:
    hub.dataset = {"train.jsonl": pairs(3)}
    return Settings(hub_endpoint=hub.endpoint)


def test_listing_without_sizes_is_refused(hub: Hub, settings: Settings) -> None:
    """Otherwise no limit would hold, and the whole file would be called damaged."""
    hub.has_sizes = False
    with pytest.raises(SourceUnavailableError, match=r"no size of 'train\.jsonl'"):
        look_up_split(settings, SOURCE, None, "train")


def test_file_that_vanished_after_the_listing_is_about_the_source(
    hub: Hub, settings: Settings, tmp_path: Path
) -> None:
    split = look_up_split(settings, SOURCE, None, "train")
    hub.dataset = {}
    with pytest.raises(SourceNotFoundError):
        download_split(settings, SOURCE, split, tmp_path, lambda: None)


@pytest.mark.parametrize(("status", "says"), [(400, "status 400"), (404, "has no")])
def test_refusal_is_about_the_source(hub: Hub, settings: Settings, status: int, says: str) -> None:
    hub.status = (status, "")
    with pytest.raises(SourceNotFoundError, match=says):
        look_up_split(settings, SOURCE, None, "train")


@pytest.mark.parametrize("card", [[1], "text"])
def test_card_that_is_no_mapping_is_an_error_of_the_hub(
    hub: Hub, settings: Settings, card: object
) -> None:
    hub.dataset_card = card  # type: ignore[assignment]
    with pytest.raises(SourceUnavailableError, match="unexpected answer"):
        look_up_split(settings, SOURCE, None, "train")


def test_download_is_interrupted_within_a_file(settings: Settings, tmp_path: Path) -> None:
    split = look_up_split(settings, SOURCE, None, "train")
    calls: list[None] = []

    def check() -> None:
        calls.append(None)
        if len(calls) > 1:  # the first call is before the file
            raise StoppedError

    with pytest.raises(StoppedError):
        download_split(settings, SOURCE, split, tmp_path, check)
    assert not (tmp_path / "train.jsonl").exists()


def test_file_that_is_longer_than_announced_is_not_stored(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "SLACK_BYTES", -1)  # any file is longer
    split = look_up_split(settings, SOURCE, None, "train")
    with pytest.raises(SourceUnavailableError, match="wrong size"):
        download_split(settings, SOURCE, split, tmp_path, lambda: None)
    assert [path for path in tmp_path.rglob("*") if path.suffix == ".incomplete"] == []


@pytest.mark.parametrize("repo", ["acme/a--b", "acme/a..b", "acme/pairs.git"])
def test_name_that_no_repository_has_is_not_an_outage(settings: Settings, repo: str) -> None:
    with (
        pytest.raises(ModelNotFoundError, match="can be named"),
        hub_client.translated_errors(HubSource(repo, "main")),
    ):
        hub_client.HfApi().dataset_info(repo)
