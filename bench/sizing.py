"""Write the table of docs/sizing.md: which base models fit which GPU, by Plaudit's estimate.

python -m bench.sizing
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from app.domain.compiler import compile_plan
from app.domain.job_data import JobData
from app.domain.plan import BaseModelFacts, DatasetRef
from app.domain.spec import RewardJobSpec
from app.domain.text_format import DataForm
from worker.trainer.memory_estimate import MemoryEstimate, StepConfig, estimate_memory

PAGE = Path(__file__).parents[1] / "docs" / "sizing.md"
START, END = "<!-- table -->", "<!-- end of the table -->"
CARDS_GB = (24, 48, 80, 141)
QUANTIZATIONS, LENGTHS = ("none", "8bit", "4bit"), (1024, 4096)


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder with a gated MLP."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    is_tied: bool = False

    def facts(self) -> BaseModelFacts:
        """Return the facts that an inspection of such a model would find."""
        queries, keys = self.heads * self.head_dim, self.key_heads * self.head_dim
        attention = {"q_proj": (self.hidden, queries), "k_proj": (self.hidden, keys),
                     "v_proj": (self.hidden, keys), "o_proj": (queries, self.hidden)}  # fmt: skip
        mlp = {"gate_proj": (self.hidden, self.inner), "up_proj": (self.hidden, self.inner),
               "down_proj": (self.inner, self.hidden)}  # fmt: skip
        parts = {**{f"self_attn.{n}": s for n, s in attention.items()},
                 **{f"mlp.{n}": s for n, s in mlp.items()}}  # fmt: skip
        linear = {
            f"model.layers.{layer}.{name}": shape
            for layer, (name, shape) in product(range(self.layers), parts.items())
        }
        modules = {path: i * o for path, (i, o) in linear.items()}
        modules |= {"score": self.hidden, "model.embed_tokens": self.vocabulary * self.hidden}
        return BaseModelFacts(
            model_type="qwen3", architecture="Qwen3ForSequenceClassification", digest="0" * 64,
            parameter_count=sum(modules.values()), hidden_size=self.hidden,
            layer_count=self.layers, vocab_rows=self.vocabulary, max_positions=40_960,
            new_modules=["score"], modules=modules, linear_modules=linear,
            attention_modules=[p for p in linear if "self_attn" in p], is_causal=True,
            supports_gradient_checkpointing=True, pad_token="<pad>", pad_token_id=0,
            eos_token="<eos>", eos_token_id=1, max_token_id=self.vocabulary - 1, dtype="bfloat16",
        )  # fmt: skip


#: The shapes of Qwen3, and of Llama 3 for 70B.
SHAPES = {
    "0.6B": Shape(1024, 28, 16, 8, 128, 3072, 151_936),
    "1.7B": Shape(2048, 28, 16, 8, 128, 6144, 151_936),
    "4B": Shape(2560, 36, 32, 8, 128, 9728, 151_936),
    "8B": Shape(4096, 36, 32, 8, 128, 12_288, 151_936),
    "32B": Shape(5120, 64, 64, 8, 128, 25_600, 151_936),
    "70B": Shape(8192, 80, 64, 8, 128, 28_672, 128_256),
}


def main() -> None:
    """Replace the table of the page."""
    text = PAGE.read_text()
    start, end = text.index(START) + len(START), text.index(END)
    PAGE.write_text(text[:start] + "\n" + table() + text[end:])


def table() -> str:
    """Return the rows as Markdown."""
    lines = [
        "| model | base | tokens | weights | LoRA and optimizer | activations | smallest card |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, shape), quantization, length in product(SHAPES.items(), QUANTIZATIONS, LENGTHS):
        facts = shape.facts()
        of_cards = {card: estimate(facts, quantization, length, card) for card in CARDS_GB}
        fitting = [card for card, found in of_cards.items() if found.total <= card * 10**9]
        shown = of_cards[fitting[0] if fitting else CARDS_GB[-1]]
        lines.append(
            f"| {name} | {'bf16' if quantization == 'none' else quantization} | {length} "
            f"| {_gb(shown.weights)} | {_gb(shown.optimizer)} | {_gb(shown.activations)} "
            f"| {f'{fitting[0]} GB' if fitting else 'none'} |"
        )
    return "\n".join(lines) + "\n"


def estimate(facts: BaseModelFacts, quantization: str, length: int, card: int) -> MemoryEstimate:
    """Estimate a job with the default spec on a card of ``card`` GB."""
    spec = RewardJobSpec.model_validate(
        {
            "base_model": "sizing",
            "train_dataset": "ds_" + "0" * 32,
            "training": {"max_length": length},
            "quantization": quantization,
        }
    )
    train = DatasetRef(id=spec.train_dataset, sha256="0" * 64, pair_count=1000)
    plan = compile_plan(spec, "sizing", facts, JobData(train, None, DataForm(has_texts=True)))
    step = StepConfig(
        device="cuda", bf16=True, longest=length, activation_checkpointing=True,
        chunked_device_bytes=card * 10**9,
    )  # fmt: skip
    return estimate_memory(facts, plan, step)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


if __name__ == "__main__":
    main()
