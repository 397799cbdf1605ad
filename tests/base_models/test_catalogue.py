"""The catalogue of base models."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.base_models.catalogue import (
    CatalogueError,
    HubSource,
    LocalSource,
    PackageSource,
    UnknownBaseModelError,
    load_catalogue,
    parse_source,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "models.yaml"
    path.write_text(text)
    return path


def test_default_catalogue_is_valid_and_has_the_demo_model():
    catalogue = load_catalogue()
    assert catalogue.get("all-minilm-l6-v2").sha256 == (
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
    assert {"qwen3-0.6b", "llama-3.2-1b", "modernbert-base"} <= {e.id for e in catalogue.entries}
    assert all(entry.description and entry.license for entry in catalogue.entries)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("package:a-b==1.0/a_b/model", PackageSource("a-b", "1.0", "a_b/model")),
        ("package:a-b==1.0+cu1/a_b/model/", PackageSource("a-b", "1.0+cu1", "a_b/model")),
        ("local:/srv/models/x", LocalSource(Path("/srv/models/x"))),
        ("hub:Qwen/Qwen3-0.6B@main", HubSource("Qwen/Qwen3-0.6B", "main")),
        ("hub:a/b@refs/pr/3", HubSource("a/b", "refs/pr/3")),
    ],
)
def test_source_is_parsed_and_formatted(text, source):
    assert parse_source(text) == source
    assert parse_source(str(source)) == source


@pytest.mark.parametrize(
    "text",
    [
        "hub:Qwen/Qwen3-0.6B",
        "hub:gpt2@main",
        "hub:../etc@main",
        "hub:a/..@main",
        "hub:a/b@../../c",
        "hub:a--b/c@main",
        "hub:https://hub/a/b@main",
        "local:models/x",
        "local:/srv/../etc",
        "package:dist/model",
        "package:dist==1.0/../../etc",
        "package:dist==1.0",
        "package:--index-url=http://x==1.0/model",
        "file:///etc",
        "Qwen/Qwen3-0.6B",
        7,
    ],
)
def test_invalid_source_is_rejected(text):
    with pytest.raises(ValueError, match=r"should be|must not"):
        parse_source(text)


def test_error_names_file_entry_and_field(tmp_path):
    path = write(
        tmp_path,
        "good: {source: 'local:/srv/x'}\n"
        "Bad Id: {source: 'local:/srv/x'}\n"
        "far: {source: 'ftp://x'}\n"
        "extra: {source: 'local:/srv/x', trust_remote_code: true}\n"
        "hash: {source: 'local:/srv/x', sha256: abc}\n"
        "none:\n",
    )
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "good" not in text
    for part in ("Bad Id: ", "far: source: ", "extra: trust_remote_code: ", "hash: sha256: "):
        assert part in text
    assert "none: " in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: {source: 'local:/x'}\na: {source: 'local:/y'}\n", "'a' occurs twice"),
        ("a: {source: 'local:/x', source: 'local:/y'}\n", "'source' occurs twice"),
        ("", "should map"),
        ("- a\n", "should map"),
        ("a: [\n", "while parsing"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("a" * (1 << 20) + "\n", "larger than"),
    ],
)
def test_invalid_catalogue_file_is_rejected(tmp_path, text, reason):
    with pytest.raises(CatalogueError, match=reason):
        load_catalogue(write(tmp_path, text))


def test_error_names_a_missing_file(tmp_path):
    with pytest.raises(CatalogueError, match=r"absent\.yaml"):
        load_catalogue(tmp_path / "absent.yaml")


def test_too_large_chat_template_is_rejected(tmp_path):
    path = write(tmp_path, f"a: {{source: 'local:/x', chat_template: '{'x' * 65537}'}}\n")
    with pytest.raises(CatalogueError, match=r"a: chat_template: .*65536 bytes"):
        load_catalogue(path)


def test_error_for_an_unknown_id_lists_the_known_ids():
    with pytest.raises(UnknownBaseModelError) as caught:
        load_catalogue().get("../../etc/passwd")
    assert "all-minilm-l6-v2" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("Qwen/Qwen3-0.6B", "Did you mean qwen3-0.6b?"),
        ("hub:Qwen/Qwen3-0.6B@main", "Did you mean qwen3-0.6b?"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B", "Did you mean qwen3-0.6b?"),
        ("models--Qwen--Qwen3-0.6B", "Did you mean qwen3-0.6b?"),
        ("another-org/Qwen3-0.6B", "Did you mean qwen3-0.6b?"),
        ("QWEN3_0.6B", "Did you mean qwen3-0.6b?"),
        ("qwen3:0.6b", "Did you mean qwen3-0.6b?"),
        ("sentence-transformers/all-MiniLM-L6-v2", "Did you mean all-minilm-l6-v2?"),
        ("meta-llama/Llama-3.2-1B", "Did you mean llama-3.2-1b?"),
        ("Qwen/Qwen3-0.6B-Base", "Similar ids are: qwen3-0.6b."),
        ("qwen3-06b", "Similar ids are: qwen3-0.6b, "),
        ("", "Choose one of: all-minilm-l6-v2, "),
        ("é" * 1000, "Choose one of: all-minilm-l6-v2, "),
    ],
)
def test_other_name_of_a_base_model_leads_to_its_id(asked, hint):
    with pytest.raises(UnknownBaseModelError) as caught:
        load_catalogue().get(asked)
    assert str(caught.value.hint).startswith(hint)


def test_entries_of_one_repository_are_all_named(tmp_path):
    entries = "old: {source: 'hub:a/b@v1'}\nnew: {source: 'hub:a/b@v2'}\n"
    with pytest.raises(UnknownBaseModelError) as caught:
        load_catalogue(write(tmp_path, entries)).get("A/B")
    assert caught.value.hint == "Did you mean old or new?"


def test_path_of_a_local_model_is_not_told(tmp_path):
    catalogue = load_catalogue(write(tmp_path, "ours: {source: 'local:/srv/secret-name'}\n"))
    with pytest.raises(UnknownBaseModelError) as caught:
        catalogue.get("secret-name")
    assert "Did you mean" not in str(caught.value.hint)


def test_long_catalogue_is_not_listed_whole(tmp_path):
    lines = [f"model-{i}: {{source: 'local:/srv/{i}'}}" for i in range(50)]
    with pytest.raises(UnknownBaseModelError) as caught:
        load_catalogue(write(tmp_path, "\n".join(lines))).get("nothing alike")
    assert "model-19 and 30 more." in str(caught.value.hint)
    assert "model-20" not in str(caught.value.hint)
