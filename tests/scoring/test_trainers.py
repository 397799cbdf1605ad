"""The reward clients of RL trainers, unmodified, with the settings of docs/scoring.md.

Their packages need GPUs or other versions of TRL and PEFT, so they are not installed: the functions
are taken from the released wheels and run unchanged.
"""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import re
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from importlib import import_module
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from tests.model_factories import ROOT
from tests.model_factories.orders import TinyBase
from tests.scoring.stage import Stage
from tests.services import skip_or_fail

PAGE = (ROOT / "docs" / "scoring.md").read_text()
#: Tested in test_other_servers.py.
OTHER_CLIENTS = ("Jina and Cohere clients", "Text Embeddings Inference")
CACHE = ROOT / ".cache" / "trainers"
LIBRARY = CACHE / "library"


@pytest.fixture(scope="module", autouse=True)
def _http_clients() -> Iterator[None]:
    """The HTTP libraries of the trainers, which turn a key in an address into a header."""
    if not (LIBRARY / "aiohttp").is_dir():
        _pip("install", "--target", LIBRARY, "aiohttp")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(LIBRARY))
        yield


def _pip(*arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        skip_or_fail(f"needs a package index: pip {arguments[0]} {arguments[-1]}")


def functions(package: str, file: str, *names: str, **namespace: Any) -> list[Any]:
    """Return functions of a file of a released package, with the names that they use."""
    name = package.partition("==")[0]
    if not list(CACHE.glob(f"{name}-*.whl")):
        _pip("download", "--no-deps", "--dest", CACHE, package)
    found = list(CACHE.glob(f"{name}-*.whl"))
    with zipfile.ZipFile(found[0]) as wheel:
        (member,) = (each for each in wheel.namelist() if each.endswith(file))
        source = wheel.read(member).decode()
    nodes = {
        node.name: node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    modules = {module: import_module(module) for module in ("aiohttp", "asyncio", "requests")}
    names_of = {**modules, "logger": logging.getLogger(package), **namespace}
    for name in names:
        segment = ast.get_source_segment(source, nodes[name], padded=True)
        exec(textwrap.dedent(segment or ""), names_of)
    return [names_of[name] for name in names]


def setting(stage: Stage, trainer: str) -> str:
    """Return a trainer's setting in docs/scoring.md, filled in for the stage."""
    (row,) = re.findall(rf"^\| {re.escape(trainer)} \| (.*?) \| ", PAGE, re.MULTILINE)
    for name, value in (
        ("KEY", stage.key),
        ("host:8000", f"127.0.0.1:{stage.client.base_url.port}"),
        ("ad_…", stage.chat),
    ):
        row = row.replace(name, value)
    return str(row)


def url_of(setting: str) -> str:
    """Return the address in a setting."""
    (url,) = re.findall(r"http://[^`\s]+", setting)
    return str(url)


def test_every_trainer_of_the_page_is_run_here_or_by_the_page_itself() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| .*? \| `/", PAGE, re.MULTILINE)
    trainers = [name for name in rows if name not in OTHER_CLIENTS]
    assert set(trainers) == {
        "TRL (GRPO, RLOO)", "OpenRLHF", "verl, vLLM", "verl, SGLang", "slime",
        "LLaMA-Factory (PPO)",
    }  # fmt: skip


@pytest.fixture
def texts(stage: Stage) -> dict[str, float]:
    return dict(list(stage.trained["chat"].texts.items())[:3])


def test_openrlhf(stage: Stage, texts: dict[str, float]) -> None:
    (fetch,) = functions(
        "openrlhf==0.11.2", "purelib/openrlhf/utils/agent.py", "_fetch_rewards_via_http"
    )
    url = url_of(setting(stage, "OpenRLHF"))
    agent = SimpleNamespace(reward_endpoints=[url], _reward_endpoint_cycle=cycle([url]))
    for text, certified in texts.items():
        (answer,) = asyncio.run(fetch(agent, [text], [""], [None]))
        assert answer["rewards"] == pytest.approx([certified], abs=1e-5)
        assert answer["scores"] == answer["rewards"]
        assert isinstance(answer["extra_logs"], dict)


@pytest.mark.parametrize(("engine", "recipe"), [("vllm", "vLLM"), ("sglang", "SGLang")])
def test_verl(stage: Stage, tiny: TinyBase, engine: str, recipe: str) -> None:
    post, prepare, compute = functions(
        "verl==0.9.1", "verl/experimental/reward_loop/reward_loop.py",
        "_post_request", "_preprocess_reward_inputs", "compute_score_disrm",
        DataProto=object,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tiny.directory)
    reply = "the answer about tea is kind ."
    ids = tokenizer(reply, return_tensors="pt").input_ids[0]
    rollout = SimpleNamespace(name=engine)
    (model_path,) = re.findall(r"^model `(\S+)`", setting(stage, f"verl, {recipe}"))
    model = SimpleNamespace(rollout=rollout, model_path=model_path)
    worker = SimpleNamespace(
        config=SimpleNamespace(reward=SimpleNamespace(reward_model=model)),
        # verl adds the scheme.
        reward_router_address=f"plaudit:{stage.key}@127.0.0.1:{stage.client.base_url.port}",
        input_tokenizer=tokenizer,
        reward_model_tokenizer=tokenizer,
    )
    worker._post_request = post.__get__(worker)
    worker._preprocess_reward_inputs = prepare.__get__(worker)
    prompt = [{"role": "user", "content": "please tell me about tea ?"}]
    item = SimpleNamespace(
        non_tensor_batch={"raw_prompt": prompt},
        batch={"responses": ids, "attention_mask": torch.ones(20 + len(ids), dtype=torch.long)},
    )
    found = asyncio.run(compute(worker, [item]))["reward_score"]
    group = {"prompt": prompt, "responses": [tokenizer.decode(ids)]}
    expected = stage.score(model=stage.chat, groups=[group])["data"][0]["scores"][0]
    assert found == pytest.approx(expected, abs=1e-5)


def test_llama_factory(stage: Stage, texts: dict[str, float]) -> None:
    (get_rewards,) = functions(
        "llamafactory==0.9.5", "llamafactory/train/ppo/ppo_utils.py", "get_rewards_from_server",
        json=json, torch=torch,
    )  # fmt: skip
    url = url_of(setting(stage, "LLaMA-Factory (PPO)"))
    found = get_rewards(url, list(texts))
    assert found.tolist() == pytest.approx(list(texts.values()), abs=1e-5)


def test_slime(stage: Stage) -> None:
    """slime is not on an index: its request and its parser of the response are copied here."""

    aiohttp = import_module("aiohttp")

    async def remote_rm(url: str, sample: dict[str, Any]) -> Any:
        async with aiohttp.ClientSession() as session, session.post(url, json=sample) as answer:
            answer.raise_for_status()
            return await answer.json()

    prompt = [{"role": "user", "content": "please tell me about tea ?"}]
    sample = {"prompt": prompt, "response": "the answer is kind .", "label": "x"}
    url = url_of(setting(stage, "slime"))
    found = asyncio.run(remote_rm(url, sample))
    group = {"prompt": prompt, "responses": [sample["response"]]}
    expected = stage.score(model=stage.chat, groups=[group])["data"][0]["scores"][0]
    assert found == pytest.approx(expected, abs=1e-5)
