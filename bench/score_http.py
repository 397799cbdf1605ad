"""Send the work of ``bench.score`` over HTTP to a scorer's engine in this process.

Each group is a separate request, and all are sent concurrently. The CPU time is that of the whole
process: the client, both sides of HTTP, tokenisation and the engine.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
from sqlalchemy import create_engine
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from app.base_models.catalogue import load_catalogue
from app.core.settings import Settings
from app.domain.plan import TokenizationPlan, TrainingPlan
from app.domain.scoring import ScoredWork, ScoreItem, ScoreWork
from worker.reward_model.reply_tokenizer import ReplyTokenizer
from worker.reward_model.resident_model import ReplyGroup, ResidentModel
from worker.scorer.adapter_pool import AdapterPool, ResidentAdapter
from worker.scorer.engine import Engine
from worker.scorer.http import HttpThread, make_app
from worker.scorer.metrics import ScorerMetrics

TOKEN = "benchmark"


class HttpScorer:
    """A scorer whose adapters are in memory."""

    def __init__(self, resident: ResidentModel, base_dir: Path, vocabulary: int) -> None:
        settings = Settings(scorer_batch_tokens=resident.batch_tokens)
        pool = AdapterPool(create_engine("sqlite://"), settings, load_catalogue())
        tokenizer = _word_tokenizer(base_dir, vocabulary)
        for name in resident.adapters:
            pool.adapters[name] = ResidentAdapter(name, resident, tokenizer, 0)
        metrics = ScorerMetrics()
        self._engine = Engine(pool, settings, metrics)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._url = f"http://127.0.0.1:{listener.getsockname()[1]}/score"
        self._http = HttpThread(make_app(self._engine, metrics, TOKEN))
        self._http.start([listener])

    def close(self) -> None:
        """Stop serving."""
        self._http.stop()

    def score(self, groups: Sequence[ReplyGroup]) -> tuple[list[list[float]], float]:
        """Return the rewards of each group and the CPU time in seconds."""
        works = [_work(group) for group in groups]
        stopping = threading.Event()

        def send() -> tuple[list[list[float]], float]:
            try:
                start = time.process_time()
                rewards = asyncio.run(self._send(works))
                return rewards, time.process_time() - start
            finally:
                stopping.set()

        with ThreadPoolExecutor(1) as client:
            sent = client.submit(send)
            self._engine.run(stopping)
            return sent.result()

    async def _send(self, works: Sequence[str]) -> list[list[float]]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        async with httpx.AsyncClient(headers=headers, timeout=600, trust_env=False) as client:
            answers = await asyncio.gather(
                *(client.post(self._url, content=work) for work in works)
            )
        for answer in answers:
            answer.raise_for_status()
        found = [ScoredWork.model_validate_json(answer.content) for answer in answers]
        return [item.scores[0] for work in found for item in work.items]


def _work(group: ReplyGroup) -> str:
    texts = [" ".join(f"w{i}" for i in sequence) for sequence in group.sequences]
    work = ScoreWork(adapters=[group.adapter], items=[ScoreItem(responses=list(texts))])
    return work.model_dump_json()


def _word_tokenizer(base_dir: Path, vocabulary: int) -> ReplyTokenizer:
    """Return a tokenizer that gives the word ``w7`` the id 7 and adds no special tokens."""
    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(base_dir)
    plan: Any = SimpleNamespace(
        tokenization=TokenizationPlan(
            max_length=4096,
            overlong="drop",
            append_eos=False,
            text_format="raw",
            pad_token="<pad>",
            pad_token_id=0,
            from_file=True,  # transformers would build the tokenizer of Qwen2
        ),
        data=SimpleNamespace(format="text"),
    )
    return ReplyTokenizer(base_dir, cast(TrainingPlan, plan))
