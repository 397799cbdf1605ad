"""The rules for specs that can be checked without a checkpoint.

The numbers V1 to V30 identify ways in which a reward adapter can be silently wrong. Those that
depend on a checkpoint are tested in tests/trainer/test_inspection.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from app.domain.compiler import compile_plan
from app.domain.job_data import JobData
from app.domain.plan import BaseModelFacts
from app.domain.rules import check
from app.domain.spec import LoraSpec, RewardJobSpec
from app.domain.spec_problems import SpecProblem, SpecRejectedError
from app.domain.text_format import DataForm, TextFormat
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

LLAMA, BERT, MOE = decoder(), encoder(), mixture()
MATHS = {"eval_datasets": {"maths": "ds_" + "3" * 32}}
PAD_IS_EOS = {"pad_token": "</s>", "pad_token_id": 2}


def problems(
    spec: dict[str, Any],
    facts: BaseModelFacts,
    pairs: int = 100,
    text_format: TextFormat | None = "raw",
) -> list[SpecProblem]:
    try:
        check(job(**spec), facts, dataset(pairs), text_format)
    except SpecRejectedError as rejected:
        return rejected.problems
    return []


def lora(**fields: Any) -> dict[str, Any]:
    return {"lora": fields}


def training(**fields: Any) -> dict[str, Any]:
    return {"training": fields}


REJECTED: list[Any] = [
    # spec, facts, field, code, part of the message
    pytest.param(training(gradient_checkpointing=True),
                 decoder(supports_gradient_checkpointing=False),
                 "/training/gradient_checkpointing", "checkpointing_unsupported",
                 "LlamaForSequenceClassification", id="V8-checkpointing-unsupported"),
    pytest.param(lora(r=33), LLAMA, "/lora/r", "rank_too_large", "(32)", id="V10-rank-over-layer"),
    pytest.param(lora(r=40, target_modules=["up_proj", "q_proj"]), LLAMA,
                 "/lora/r", "rank_too_large", "(32)", id="V10-rank-over-smallest-of-the-list"),
    pytest.param(lora(target_modules=["q_proj", "zzz"]), LLAMA, "/lora/target_modules/1",
                 "target_matches_nothing", "'zzz'", id="V12-target-matches-nothing"),
    pytest.param(lora(target_modules=["proj"]), LLAMA, "/lora/target_modules/0",
                 "target_matches_nothing", "'proj'", id="V12-part-of-a-name"),
    pytest.param(lora(target_modules=["q_proj", "norm"]), LLAMA, "/lora/target_modules/1",
                 "target_not_adaptable", "'norm'", id="V12-norm-layer"),
    pytest.param(lora(target_modules=["q_proj", "score"]), LLAMA, "/lora/target_modules/1",
                 "head_as_target", "'score'", id="V12-head-as-target"),
    pytest.param(lora(target_modules=["pooler.dense"]), BERT, "/lora/target_modules/0",
                 "head_as_target", "pooler", id="V12-new-pooler-as-target"),
    pytest.param(lora(target_modules=["q_proj"], modules_to_save=["model.layers.0", "layers.1"]),
                 LLAMA, "/lora/target_modules/0", "target_saved_in_full", "'q_proj'",
                 id="V12-target-inside-what-is-saved"),
    pytest.param(lora(modules_to_save=["model"]), LLAMA, "/lora/modules_to_save",
                 "nothing_to_adapt", "no linear layer", id="V12-nothing-left-to-adapt"),
    pytest.param(lora(target_modules=["q_proj", "gate_proj"]), MOE, "/lora/target_modules/1",
                 "target_matches_nothing", "'gate_proj'", id="V14-dense-names-on-experts"),
    pytest.param(lora(target_modules=["experts"]), MOE, "/lora/target_modules/0",
                 "target_not_adaptable", "mixture of experts", id="V14-experts"),
    pytest.param(lora(target_modules=["gate"]), MOE, "/lora/target_modules/0",
                 "target_not_adaptable", "mixture of experts", id="V14-router"),
    pytest.param(lora(init="orthogonal", r=7), LLAMA, "/lora/r", "rank_odd", "7",
                 id="V17-odd-rank"),
    pytest.param(lora(modules_to_save=["dense"]), BERT, "/lora/modules_to_save/0",
                 "module_ambiguous", "5 modules", id="V19-saves-more-than-one"),
    pytest.param(lora(modules_to_save=["model.norm"]),
                 decoder(modules={**LLAMA.modules, "tower.model.norm": 3}),
                 "/lora/modules_to_save/0", "module_ambiguous", "2 modules",
                 id="V19-dotted-name-of-two"),
    pytest.param(lora(modules_to_save=["norm"]), decoder(modules={**LLAMA.modules, "norm": 3}),
                 "/lora/modules_to_save/0", "module_ambiguous", "2 modules", id="V19-name-of-two"),
    pytest.param(lora(modules_to_save=["embeddings"]),
                 encoder(modules={**BERT.modules, "bert.word_embeddings": 9, "embeddings": 5}),
                 "/lora/modules_to_save/0", "module_ambiguous", "2 modules",
                 id="V19-plain-and-dotted"),
    pytest.param(lora(modules_to_save=["extra"]),
                 decoder(modules={**LLAMA.modules, "extra": 5, "model.my_extra": 7}),
                 "/lora/modules_to_save/0", "module_ambiguous", "model.my_extra",
                 id="V19-plain-suffix-of-another"),
    pytest.param(lora(modules_to_save=["zzz"]), LLAMA, "/lora/modules_to_save/0",
                 "module_matches_nothing", "0 modules", id="V19-saves-nothing"),
    pytest.param(lora(modules_to_save=["score"]), BERT, "/lora/modules_to_save/0",
                 "head_always_saved", "its reward head is bert.pooler.dense, classifier",
                 id="V19-head-of-another-model"),
    pytest.param(lora(modules_to_save=["base_model.model.v_head"]), LLAMA,
                 "/lora/modules_to_save/0", "head_always_saved", "its reward head is score",
                 id="V19-dotted-head-of-another-model"),
    pytest.param(lora(modules_to_save=["layers.0.mlp.act_fn"]), LLAMA, "/lora/modules_to_save/0",
                 "module_empty", "act_fn", id="V19-nothing-to-train"),
    pytest.param(lora(modules_to_save=["heads"]),
                 decoder(modules={**LLAMA.modules, "heads": 5, "heads.0": 2, "heads.1": 3}),
                 "/lora/modules_to_save/0", "module_is_a_list", "2 modules", id="V19-module-list"),
    pytest.param({}, decoder(eos_token_id=320), "/base_model", "token_outside_embedding",
                 "'</s>', which is token 320", id="V23-eos-outside-embedding"),
    pytest.param({}, decoder(pad_token_id=400), "/base_model", "pad_is_eos", "'</s>'",
                 id="V23-pad-outside-embedding"),
    pytest.param(training(pad_token="<b>"), decoder(special_tokens={"<a>": 9, "</s>": 2}),
                 "/training/pad_token", "pad_token_unknown", "'<b>' is not a special token",
                 id="V5-unknown-pad-token"),
    pytest.param(training(pad_token="</s>"), decoder(special_tokens={"<a>": 9, "</s>": 2}),
                 "/training/pad_token", "pad_token_ends_text", "every text ends in '</s>'",
                 id="V5-eos-as-pad-token"),
    pytest.param({}, decoder(**PAD_IS_EOS), "/base_model", "pad_is_eos", "'</s>'",
                 id="V5-pad-is-eos"),
    pytest.param({}, decoder(pad_token=None, pad_token_id=None), "/base_model", "pad_is_eos",
                 "'</s>'", id="V22-no-pad-token"),
    pytest.param({}, encoder(pad_token=None, pad_token_id=None), "/base_model", "no_pad_token",
                 "neither", id="V22-neither-pad-nor-eos"),
    pytest.param(training(max_length=4096), LLAMA, "/training/max_length", "beyond_positions",
                 "2048 positions", id="V25-beyond-positions"),
    pytest.param(training(lr_scheduler="constant", warmup_ratio=0.1), LLAMA,
                 "/training/warmup_ratio", "warmup_unused", "0.1 has no effect",
                 id="constant-without-warmup"),
    pytest.param(training(lr_scheduler="constant", warmup_steps=5), LLAMA,
                 "/training/warmup_steps", "warmup_unused", "5 steps have no effect",
                 id="constant-without-warmup-steps"),
    pytest.param(training(warmup_ratio=0.1, warmup_steps=5), LLAMA, "/training/warmup_steps",
                 "warmup_given_twice", "warmup_ratio 0.1", id="warmup-given-twice"),
    pytest.param(training(chat_template="{{ messages }}"), LLAMA, "/training/chat_template",
                 "chat_template_unused", "tokenised as they are",
                 id="chat-template-of-plain-text"),
    pytest.param(training(lr_cycles=3), LLAMA, "/training/lr_cycles", "cycles_unused",
                 '"linear" has no cycles', id="cycles-without-restarts"),
    pytest.param({**training(optimizer="paged_adamw_8bit"), "resources": {"gpus": 0}}, LLAMA,
                 "/training/optimizer", "optimizer_needs_gpu", "paged_adamw_8bit",
                 id="optimizer-of-bitsandbytes-on-a-cpu"),
    pytest.param({"base_model_head": "reuse"}, decoder(unused_heads=["score.weight [2, 32]"]),
                 "/base_model_head", "no_trained_head", "they have score.weight [2, 32]",
                 id="no-head-to-reuse"),
    pytest.param(training(batch_size=8, per_device_batch_size=3), LLAMA,
                 "/training/per_device_batch_size", "batch_not_divisible", "8 is not a multiple",
                 id="V26-batch-not-divisible"),
    pytest.param({"eval_dataset": {"fraction": 0.1},
                  **training(early_stopping={}, eval_steps=4, checkpoint_steps=6)}, LLAMA,
                 "/training/checkpoint_steps", "checkpoint_not_at_eval", "6 is not a multiple",
                 id="V27-best-model-between-evaluations"),
    pytest.param({"eval_dataset": {"fraction": 0.1}, **training(early_stopping={})}, LLAMA,
                 "/training/early_stopping", "eval_steps_missing", "eval_steps is null",
                 id="V27-early-stopping-never-evaluates"),
    pytest.param(training(early_stopping={}, eval_steps=4), LLAMA, "/training/early_stopping",
                 "eval_dataset_missing", "eval_dataset is null", id="V27-nothing-to-evaluate-on"),
    pytest.param({**MATHS, **training(early_stopping={}, eval_steps=4)}, LLAMA,
                 "/training/early_stopping", "monitored_dataset_missing", "it is open which",
                 id="V27-early-stopping-by-which-dataset"),
    pytest.param({**MATHS, **training(early_stopping={"monitored_dataset": "x"}, eval_steps=4)},
                 LLAMA, "/training/early_stopping/monitored_dataset", "monitored_dataset_unknown",
                 "eval_datasets has no 'x'", id="V27-early-stopping-by-no-dataset"),
    pytest.param(training(eval_steps=4), LLAMA, "/training/eval_steps", "eval_dataset_missing",
                 "eval_dataset is null", id="V27-eval-steps-without-data"),
    pytest.param({"quantization": "4bit", "resources": {"gpus": 0}}, LLAMA, "/quantization",
                 "quantization_needs_gpu", "4bit", id="quantised-on-a-cpu"),
    pytest.param({"quantization": "4bit"}, mixture(parameter_count=10**6), "/quantization",
                 "quantization_leaves_experts", "of this model's", id="quantised-experts"),
    pytest.param({**lora(dropout=0.1), **training(engine="shared_prefix")}, LLAMA,
                 "/training/engine", "engine_unsupported", "0.1", id="dropout-in-the-fast-engine"),
    pytest.param(training(engine="shared_prefix"), BERT, "/training/engine", "engine_unsupported",
                 "last token", id="encoder-in-the-fast-engine"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "facts", "loc", "code", "found"), REJECTED)
def test_violated_rule_has_field_code_message_and_hint(
    spec: dict[str, Any], facts: BaseModelFacts, loc: str, code: str, found: str
):
    (problem,) = problems(spec, facts)
    assert (problem.loc, problem.code) == (loc, code)
    assert found in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    ("pairs", "loc", "code"),
    [
        pytest.param(0, "/train_dataset", "dataset_empty", id="V25-no-rows"),
        pytest.param(9, "/eval_dataset/fraction", "fraction_leaves_nothing", id="V27-eval-empty"),
    ],
)
def test_too_few_pairs_are_rejected(pairs: int, loc: str, code: str):
    found = problems({"eval_dataset": {"fraction": 0.1}}, LLAMA, pairs)
    assert (loc, code) in {(p.loc, p.code) for p in found}


def test_all_problems_are_reported_at_once():
    spec = {**lora(r=64, target_modules=["zzz", "q_proj"]), **training(eval_steps=3)}
    assert [p.loc for p in problems(spec, LLAMA)] == [
        "/lora/target_modules/0",
        "/lora/r",
        "/training/eval_steps",
    ]


def test_hint_for_an_unknown_target_lists_the_linear_layers():
    (problem,) = problems(lora(target_modules=["wq"]), LLAMA)
    assert problem.hint == (
        "The linear layers of this model are: down_proj, k_proj, o_proj, q_proj, up_proj, v_proj."
    )


ACCEPTED: list[Any] = [
    pytest.param({**MATHS, **training(early_stopping={"monitored_dataset": "maths"},
                                      eval_steps=4)}, LLAMA, "raw", id="V27-named-dataset"),
    pytest.param({**MATHS, **training(eval_steps=4)}, LLAMA, "raw", id="V27-named-datasets-alone"),
    pytest.param({}, LLAMA, "raw", id="defaults"),
    pytest.param({}, BERT, None, id="V24-encoder-without-template"),
    pytest.param({}, decoder(**PAD_IS_EOS), None, id="V5-pad-is-eos-in-a-chat"),
    pytest.param({}, decoder(**PAD_IS_EOS, spare_pad_tokens={"<|reserved_0|>": 300}), "raw",
                 id="V5-spare-pad-token"),
    pytest.param({}, encoder(), "raw", id="V22-no-eos"),
    pytest.param({}, decoder(max_token_id=320), "raw", id="V23-unused-token-outside-embedding"),
    pytest.param(training(pad_token="<a>"), decoder(**PAD_IS_EOS, special_tokens={"<a>": 9}),
                 "raw", id="V5-named-pad-token"),
    pytest.param(lora(modules_to_save=["classifier"]),
                 encoder(new_modules=["classifier", "pre_classifier"],
                         modules={**BERT.modules, "pre_classifier": 9}), "raw",
                 id="V7-head-with-a-sibling"),
    pytest.param(lora(modules_to_save=["score"]), LLAMA, "raw", id="V7-head-named-by-the-user"),
    pytest.param(lora(modules_to_save=["classifier", "bert.pooler"]), BERT, "raw",
                 id="V7-module-around-a-new-one"),
    pytest.param(lora(dropout=0.1, use_dora=True), MOE, "raw", id="V14-dropout-and-dora"),
    pytest.param(lora(target_modules=["q_proj", "layers.1.mlp.up_proj"]), LLAMA, "raw",
                 id="V12-leaf-and-path"),
    pytest.param(lora(r=32, init="orthogonal"), LLAMA, "raw", id="V10-rank-of-the-layer"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "facts", "text_format"), ACCEPTED)
def test_valid_spec_is_accepted(
    spec: dict[str, Any], facts: BaseModelFacts, text_format: TextFormat | None
):
    assert problems(spec, facts, text_format=text_format) == []


UNSUPPORTED: list[Any] = [
    pytest.param(LoraSpec, {"task_type": "CAUSAL_LM"}, id="V10-task-type"),
    pytest.param(LoraSpec, {"task_type": None}, id="V10-no-task-type"),
    pytest.param(LoraSpec, {"r": 0}, id="V10-rank-0"),
    pytest.param(LoraSpec, {"alpha": 0}, id="V11-alpha-0"),
    pytest.param(LoraSpec, {"dropout": 1.0}, id="V11-dropout-1"),
    pytest.param(LoraSpec, {"dropout": -0.1}, id="V11-dropout-negative"),
    pytest.param(LoraSpec, {"target_modules": "q_proj"}, id="V12-bare-string-is-a-regex"),
    pytest.param(LoraSpec, {"target_modules": ["*q"]}, id="V12-pattern"),
    pytest.param(LoraSpec, {"target_modules": []}, id="V12-empty-list"),
    pytest.param(LoraSpec, {"target_modules": None}, id="V13-PEFT-s-own-default"),
    pytest.param(LoraSpec, {"target_parameters": ["experts.down_proj"]}, id="V14-parameters"),
    pytest.param(LoraSpec, {"layers_to_transform": [0]}, id="V15-layers-to-transform"),
    pytest.param(LoraSpec, {"layers_pattern": "h"}, id="V15-layers-pattern"),
    pytest.param(LoraSpec, {"rank_pattern": {"q": 4}}, id="V16-rank-pattern"),
    pytest.param(LoraSpec, {"alpha_pattern": {"q": 4}}, id="V16-alpha-pattern"),
    *[
        pytest.param(LoraSpec, {"init": init}, id=f"V17-{init}")
        for init in ("pissa_niter_4", "eva", "lora_ga", "corda", "loftq", False, "zzz")
    ],
    pytest.param(LoraSpec, {"init": "pissa"}, id="V18-pissa"),
    pytest.param(LoraSpec, {"init": "olora"}, id="V18-olora"),
    *[
        pytest.param(LoraSpec, {field: True}, id=f"V19-{field}")
        for field in ("alora_invocation_tokens", "use_qalora", "layer_replication",
                      "megatron_config", "lora_bias")
    ],
    pytest.param(LoraSpec, {"modules_to_save": "score"}, id="V19-saved-as-a-string"),
    pytest.param(LoraSpec, {"modules_to_save": None}, id="V19-head-removed"),
    pytest.param(LoraSpec, {"bias": "all"}, id="V20-bias"),
    pytest.param(LoraSpec, {"trainable_token_indices": [1]}, id="V21-token-indices"),
    pytest.param(TrainingSpec, {"metric_for_best_model": "eval_f1"}, id="V28-metric"),
    pytest.param(TrainingSpec, {"resume_from_checkpoint": "x"}, id="V29-resume-of-another-run"),
    pytest.param(RewardJobSpec, {"resources": {"gpus": 2}}, id="V30-two-gpus"),
    pytest.param(TrainingSpec, {"learning_rate": float("nan")}, id="nan"),
    pytest.param(RewardJobSpec, {"trust_remote_code": True}, id="remote-code"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "fields"), UNSUPPORTED)
def test_options_that_would_silently_break_a_model_do_not_exist(model: Any, fields: dict[str, Any]):
    base = {"base_model": "tiny", "train_dataset": "ds_" + "1" * 32}
    document = {**base, **fields} if model is RewardJobSpec else fields
    with pytest.raises(ValidationError) as caught:
        model.model_validate(document)
    (name,) = fields
    assert {str(error["loc"][0]) for error in caught.value.errors()} == {name}


@pytest.mark.parametrize("form", [TEXT, CONVERSATIONS])
def test_invalid_spec_is_not_compiled(form: DataForm):
    spec = job(lora={"target_modules": ["zzz"]})
    with pytest.raises(SpecRejectedError, match="/lora/target_modules/0"):
        compile_plan(spec, "hub", LLAMA, JobData(dataset(), None, form))
