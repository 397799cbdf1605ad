"""Compilation of specs into training plans."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Template
from pydantic import ValidationError

from app.domain.compiler import batch_split, compile_plan, planned_steps
from app.domain.job_data import JobData
from app.domain.paths import matches, shortest_names
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.spec_problems import SpecRejectedError
from app.domain.templates import PLAIN_LINES
from app.domain.text_format import DataForm
from app.domain.training_spec import TrainingSpec
from tests.domain.base_model_facts import (
    CONVERSATIONS,
    TEXT,
    dataset,
    decoder,
    encoder,
    job,
    mixture,
)


def plan_of(
    facts: BaseModelFacts, *, form: DataForm = TEXT, evaluation: Any = None, **spec: Any
) -> TrainingPlan:
    return compile_plan(job(**spec), "hub", facts, JobData(dataset(), evaluation, form))


def test_head_is_saved_by_its_full_path_and_never_adapted():
    plan = plan_of(encoder())
    assert plan.head_modules == ["bert.pooler.dense", "classifier"]
    assert plan.lora["modules_to_save"] == plan.head_modules
    # "dense" alone would also match the pooler.
    assert plan.lora["target_modules"] == ["output.dense", "query"]


def test_mixture_of_experts_adapts_attention_only():
    assert plan_of(mixture()).lora["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]


def test_module_that_contains_a_new_one_is_saved_instead():
    plan = plan_of(encoder(), lora={"modules_to_save": ["bert.pooler"]})
    assert plan.lora["modules_to_save"] == ["bert.pooler", "classifier"]
    assert plan.head_modules == ["bert.pooler.dense", "classifier"]


def test_module_saved_in_full_is_counted_once_and_not_adapted():
    plan = plan_of(decoder(), lora={"modules_to_save": ["layers.0"], "r": 2})
    adapted = 2 * (4 * (32 + 32) + 2 * (32 + 64))
    assert plan.trainable_parameters == adapted + 5504 + 32
    targets = plan.lora["target_modules"]
    assert isinstance(targets, list)
    assert all("0" not in str(name) for name in targets)


def test_dora_counts_one_magnitude_per_output():
    outputs = 2 * (4 * 32 + 64 + 32)
    plain, dora = plan_of(decoder()), plan_of(decoder(), lora={"use_dora": True})
    assert dora.trainable_parameters - plain.trainable_parameters == outputs


@pytest.mark.parametrize(
    ("facts", "form", "token"),
    [
        (decoder(), TEXT, ("<pad>", 0)),
        (
            decoder(pad_token=None, pad_token_id=None, spare_pad_tokens={"<a>": 300, "<b>": 299}),
            TEXT,
            ("<b>", 299),
        ),
        (decoder(pad_token="</s>", pad_token_id=2), CONVERSATIONS, ("</s>", 2)),
        (decoder(pad_token=None, pad_token_id=None), CONVERSATIONS, ("</s>", 2)),
        (decoder(pad_token_id=400, spare_pad_tokens={"<a>": 300}), TEXT, ("<a>", 300)),
        (
            decoder(final_token_id=0, spare_pad_tokens={"<pad>": 0, "<a>": 300}),
            CONVERSATIONS,
            ("<a>", 300),
        ),
        (decoder(final_token_id=0), TEXT, ("<pad>", 0)),
    ],
    ids=["own", "spare", "eos-in-a-conversation", "none-in-a-conversation", "own-without-a-row",
         "own-ends-a-conversation", "own-ends-no-text"],
)  # fmt: skip
def test_pad_token_ends_no_text(facts: BaseModelFacts, form: DataForm, token: tuple[str, int]):
    tokenization = plan_of(facts, form=form).tokenization
    assert (tokenization.pad_token, tokenization.pad_token_id) == token


def test_conversation_that_ends_in_the_only_pad_token_is_refused():
    facts = decoder(pad_token="</s>", pad_token_id=2, final_token_id=2)
    with pytest.raises(SpecRejectedError, match="The cause is the model and not the data"):
        plan_of(facts, form=CONVERSATIONS)


def test_chat_template_of_the_spec_replaces_that_of_the_model_and_its_end():
    facts = decoder(pad_token_id=2, pad_token="</s>", final_token_id=2, spare_pad_tokens={"<a>": 9})
    mine = "{% for m in messages %}<a>{{ m.content }}{% endfor %}"
    plan = plan_of(facts, form=CONVERSATIONS, training={"chat_template": mine}).tokenization
    assert plan.chat_template == mine
    # "<a>" is a part of the template, and the template need not end in EOS.
    assert plan.pad_token == "</s>"
    own = plan_of(facts, form=CONVERSATIONS).tokenization
    assert (own.chat_template, own.pad_token) == (facts.chat_template, "<a>")


@pytest.mark.parametrize(
    "template", ["", "x" * 65_537, "é" * 32_769, "a\x00b"], ids=["empty", "long", "bytes", "nul"]
)
def test_chat_template_of_the_spec_is_bounded(template: str):
    with pytest.raises(ValidationError, match=r"chat_template"):
        job(training={"chat_template": template})


def test_rows_of_the_embedding_are_planned_only_if_a_token_lies_beyond_them():
    assert "embedding_rows" not in plan_of(decoder()).tokenization.model_dump()
    assert plan_of(decoder(max_token_id=320)).tokenization.embedding_rows == 320


def test_conversations_use_the_template_of_the_model_or_a_plain_one():
    assert plan_of(decoder()).tokenization.chat_template is None
    chat = plan_of(decoder(), form=CONVERSATIONS).tokenization
    assert chat.chat_template == decoder().chat_template
    assert not chat.append_eos
    plain = plan_of(encoder(), form=CONVERSATIONS).tokenization
    assert plain.chat_template == PLAIN_LINES


@pytest.mark.parametrize(
    ("around", "rendered"),
    [
        (("[CLS]", "[SEP]"), "[CLS]user: a\nassistant: b\n[SEP]"),
        (('<"s">', ""), '<"s">user: a\nassistant: b\n'),
        (("", "<pad>"), "user: a\nassistant: b\n"),  # a final pad token would move the score
    ],
)
def test_plain_template_adds_the_tokens_of_the_tokenizer(around: tuple[str, str], rendered: str):
    plan = plan_of(encoder(tokens_around=around), form=CONVERSATIONS).tokenization
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert Template(plan.chat_template or "", keep_trailing_newline=True).render(
        messages=messages
    ) == (rendered)


def test_eos_is_appended_to_plain_text():
    assert plan_of(decoder()).tokenization.append_eos
    assert not plan_of(encoder()).tokenization.append_eos


def test_default_max_length_is_limited_by_the_positions():
    assert plan_of(encoder()).tokenization.max_length == 512
    assert plan_of(encoder(max_positions=None)).tokenization.max_length == 1024


def test_gradient_checkpointing_is_off_if_unsupported():
    assert plan_of(decoder()).gradient_checkpointing == "auto"
    cannot = decoder(supports_gradient_checkpointing=False)
    assert plan_of(cannot).gradient_checkpointing is False


def test_requested_dropout_is_not_disabled():
    assert plan_of(decoder()).reward["disable_dropout"] is True
    plan = plan_of(decoder(), lora={"dropout": 0.1})
    assert (plan.lora["lora_dropout"], plan.reward["disable_dropout"]) == (0.1, False)


def test_trl_neither_drops_rows_nor_hides_nan():
    reward = plan_of(decoder()).reward
    assert reward["max_length"] is None
    assert reward["logging_nan_inf_filter"] is False


def test_early_stopping_saves_a_checkpoint_at_each_evaluation():
    reward = plan_of(
        decoder(),
        eval_dataset={"fraction": 0.1},
        training={"early_stopping": {}, "eval_steps": 5},
    ).reward
    assert (reward["save_strategy"], reward["save_steps"]) == ("steps", 5)
    assert (reward["load_best_model_at_end"], reward["metric_for_best_model"]) == (
        True,
        "eval_loss",
    )


def test_lists_of_a_plan_are_fresh_at_every_use():
    plan = plan_of(decoder())
    plan.lora_kwargs()["modules_to_save"].append("classifier")
    assert plan.lora_kwargs()["modules_to_save"] == ["score"]


def test_early_stopping_by_a_named_dataset_changes_the_arguments_alone():
    training = {"eval_steps": 4, "early_stopping": {"patience": 2}}
    maths = {"maths": dataset(7)}
    plain = plan_of(decoder(), eval_dataset={"fraction": 0.5}, training=training)
    training["early_stopping"] = {"patience": 2, "monitored_dataset": "maths"}
    spec = job(eval_datasets={"maths": maths["maths"].id}, training=training)
    named = compile_plan(spec, "hub", decoder(), JobData(dataset(), None, TEXT, maths))
    assert plain.early_stopping == named.early_stopping == {"patience": 2, "min_delta": 0.0}
    assert plain.reward | {"metric_for_best_model": "eval_maths_loss"} == named.reward
    assert "eval_datasets" not in plain.model_dump()["data"]
    assert named.data.eval_datasets == maths


def test_plan_round_trips_through_json():
    plan = plan_of(encoder(), eval_dataset={"fraction": 0.5})
    assert TrainingPlan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(("engine", "most"), [("auto", 64), ("shared_prefix", 64), ("stock", 8)])
@given(batch_size=st.integers(1, 4096))
def test_accumulation_gives_the_effective_batch_size(engine: str, most: int, batch_size: int):
    training = TrainingSpec.model_validate({"batch_size": batch_size, "engine": engine})
    per_device, accumulation = batch_split(training)
    assert per_device * accumulation == batch_size
    assert 1 <= per_device <= most
    assert all(batch_size % n for n in range(per_device + 1, most + 1))


@pytest.mark.parametrize(
    ("pairs", "training", "steps"),
    [
        (100, {"batch_size": 8}, 13),
        (100, {"batch_size": 8, "epochs": 2.0}, 26),
        (100, {"batch_size": 16, "per_device_batch_size": 4}, 7),
        (3, {"batch_size": 8}, 1),
        (100, {"max_steps": 5}, 5),
        (100, {"batch_size": 8, "epochs": 0.5}, 7),
    ],
)
def test_steps_are_counted_as_in_transformers(pairs: int, training: dict[str, Any], steps: int):
    assert planned_steps(pairs, plan_of(decoder(), training=training)) == steps


_part = st.sampled_from(["a", "b", "dense", "0", "1", "attn"])
_path = st.lists(_part, min_size=1, max_size=4).map(".".join)


@given(modules=st.sets(_path, min_size=1, max_size=12), data=st.data())
def test_short_names_match_exactly_the_wanted_modules(modules: set[str], data: st.DataObject):
    wanted = data.draw(st.sets(st.sampled_from(sorted(modules)), min_size=1))
    names = shortest_names(sorted(wanted), modules)
    # PEFT cannot distinguish a top-level module from others whose paths end with its name.
    ambiguous = {w for w in wanted if set(matches(w, modules)) - wanted}
    matched = {path for name in names for path in matches(name, modules)}
    assert wanted <= matched
    assert ambiguous or matched == wanted


def test_split_depends_on_the_dataset_and_not_on_the_seed_of_the_training():
    half = {"fraction": 0.5}
    plans = [plan_of(decoder(), eval_dataset=half, training={"seed": seed}) for seed in (1, 2)]
    assert plans[0].data.eval_seed == plans[1].data.eval_seed == 0x22222222
    chosen = plan_of(decoder(), eval_dataset={**half, "seed": 7})
    assert chosen.data.eval_seed == 7
    assert "eval_seed" not in plan_of(decoder()).data.model_dump()


@pytest.mark.parametrize(
    ("training", "arguments"),
    [
        ({"warmup_ratio": 0.1}, {"warmup_steps": 0.1}),
        ({"warmup_steps": 10}, {"warmup_steps": 10}),
        ({"optimizer": "sgd"}, {"optim": "sgd"}),
        ({"lr_scheduler": "cosine_with_restarts"}, {"lr_scheduler_kwargs": {"num_cycles": 2}}),
        (
            {"lr_scheduler": "cosine_with_restarts", "lr_cycles": 5},
            {"lr_scheduler_kwargs": {"num_cycles": 5}},
        ),
    ],
    ids=str,
)
def test_schedule_and_optimiser_are_those_of_transformers(
    training: dict[str, Any], arguments: dict[str, Any]
):
    assert plan_of(decoder(), training=training).reward.items() >= arguments.items()
    assert not {"optim", "lr_scheduler_kwargs"} & plan_of(decoder()).reward.keys()
