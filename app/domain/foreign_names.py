"""Names of other tools for the fields of a job spec.

Users of TRL, PEFT, transformers, OpenAI's fine-tuning API, Axolotl or LLaMA-Factory may write
these names. They are errors whose hint names the intended field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class ForeignName:
    """Names of other tools, separated by spaces, with the field that they correspond to.

    ``pointer`` is None if a job spec has no such field; ``note`` then explains why. ``value`` is
    the value of the field if the name implies it. ``parent`` limits the names to one object of the
    spec.
    """

    names: str
    pointer: str | None
    note: str = ""
    value: str | int | float | bool | None = None
    parent: str | None = None

    @property
    def hint(self) -> str:
        """Hint for the user: which field to use instead, or why there is none."""
        if self.pointer is None:
            return self.note
        return (
            f"Use {self.pointer}, as in {_example(self.pointer, self.value)}. {self.note}".strip()
        )


def _example(pointer: str, value: object) -> str:
    text = "…" if value is None else json.dumps(value, ensure_ascii=False)
    for name in reversed(pointer.split("/")[1:]):
        text = f'{{"{name}": {text}}}'
    return text


_NO_CHOICE = "Leave it out: the service decides this."

#: Names in lower case with underscores; the names of clients are converted to this form first.
FOREIGN_NAMES = (
    # the base model
    ForeignName("model model_name model_name_or_path model_id model_path base_model_id "
                "base_model_name_or_path pretrained_model_name_or_path pretrained_model base",
                "/base_model", "It takes an id from GET /v1/base-models."),
    ForeignName("revision model_revision revision_of_model base_model_revision",
                None, "Leave it out: the catalogue's entry for the base model names the revision."),
    ForeignName("trust_remote_code",
                None, "Leave it out: the service never runs code from a model repository."),
    ForeignName("tokenizer tokenizer_name tokenizer_name_or_path tokenizer_path processing_class",
                None, "Leave it out: the tokenizer is that of the base model."),
    ForeignName("num_labels problem_type", None, "Leave it out: a reward model has one output."),
    ForeignName("chat_template_path template jinja_template",
                "/training/chat_template", "It takes the template itself."),
    # data
    ForeignName("dataset dataset_id dataset_name dataset_path datasets data data_path "
                "training_file train_file training_data train_data training_dataset train_set "
                "train",
                "/train_dataset", "It takes the id that POST /v1/datasets returns."),
    ForeignName("validation_file validation_data validation_dataset validation_set validation "
                "val_file val_data val_dataset val_set eval_file eval_data eval_set "
                "test_file test_data test_dataset test_datasets test_set do_eval",
                "/eval_dataset", "It takes the id that POST /v1/datasets returns."),
    ForeignName("validation_split validation_size validation_fraction val_split val_size "
                "val_set_size val_fraction eval_split eval_size eval_fraction test_split test_size "
                "dev_size split_ratio train_test_split",
                "/eval_dataset/fraction"),
    ForeignName("split share size ratio percent percentage proportion val validation eval test",
                "/eval_dataset/fraction",
                "It is a share of the training pairs, between 0 and 1.", parent="/eval_dataset"),
    ForeignName("id dataset dataset_id eval_dataset name file",
                "/eval_dataset",
                "A dataset is given by its id alone.", value="ds_…", parent="/eval_dataset"),
    # LoRA
    ForeignName("rank lora_r lora_rank lora_dim adapter_rank", "/lora/r"),
    ForeignName("lora_alpha peft_alpha alpha_lora", "/lora/alpha"),
    ForeignName("lora_dropout peft_dropout disable_dropout", "/lora/dropout"),
    ForeignName("lora_target_modules lora_target lora_target_linear targets lora_targets "
                "target_parameters lora_target_parameters",
                "/lora/target_modules"),
    ForeignName("lora_modules_to_save additional_target unfrozen_parameters",
                "/lora/modules_to_save", "The reward head is always saved and need not be named."),
    ForeignName("lora_use_rslora peft_use_rslora use_rs_lora rslora", "/lora/use_rslora"),
    ForeignName("lora_use_dora peft_use_dora dora", "/lora/use_dora"),
    ForeignName("init_lora_weights peft_init_lora_weights lora_init", "/lora/init"),
    ForeignName("lora_task_type peft_type", "/lora/task_type", "It is always SEQ_CLS."),
    ForeignName("peft peft_config lora_config adapter adapter_config lora_params lora_parameters",
                "/lora"),
    ForeignName("use_peft use_lora finetuning_type", None, "Leave it out: LoRA is always used."),
    ForeignName("bias lora_bias fan_in_fan_out layers_to_transform layers_pattern rank_pattern "
                "alpha_pattern exclude_modules trainable_token_indices layer_replication "
                "ensure_weight_tying auto_mapping peft_version inference_mode megatron_config "
                "megatron_core runtime_config loftq_config eva_config corda_config lora_ga_config "
                "velora_config monteclora_config arrow_config kasa_config use_qalora "
                "qalora_group_size use_bdlora alora_invocation_tokens",
                None, "Leave it out: this part of LoraConfig cannot be set."),
    # the run
    ForeignName("training_args training_arguments train_args args arguments hyperparameters "
                "hyperparams hyper_parameters reward_config trainer trainer_args training_config "
                "train_config training_parameters config",
                "/training"),
    ForeignName("num_train_epochs n_epochs num_epochs epoch max_epochs", "/training/epochs"),
    ForeignName("max_train_steps num_steps num_train_steps n_steps total_steps train_steps steps "
                "max_iterations iterations iters",
                "/training/max_steps"),
    ForeignName("lr base_lr peak_lr", "/training/learning_rate"),
    ForeignName("learning_rate_multiplier lr_multiplier",
                "/training/learning_rate", "It is the rate itself, not a multiple of one."),
    ForeignName("lr_scheduler_type lr_schedule scheduler scheduler_type schedule",
                "/training/lr_scheduler"),
    ForeignName("lr_scheduler_kwargs num_cycles", "/training/lr_cycles"),
    ForeignName("num_warmup_steps lr_warmup_steps", "/training/warmup_steps"),
    ForeignName("warmup warmup_proportion",
                "/training/warmup_ratio", "It is a share of all steps, from 0 to below 1."),
    ForeignName("wd decay", "/training/weight_decay"),
    ForeignName("grad_clip gradient_clip gradient_clipping gradient_clip_val clip_grad "
                "clip_grad_norm grad_norm max_gradient_norm",
                "/training/max_grad_norm"),
    ForeignName("train_batch_size global_batch_size total_batch_size effective_batch_size "
                "batchsize bs",
                "/training/batch_size", "It counts the pairs of one optimiser step."),
    ForeignName("gradient_accumulation_steps gradient_accumulation grad_accum grad_accum_steps "
                "accumulation_steps",
                "/training/batch_size",
                "It counts the pairs of one optimiser step; the service accumulates gradients by "
                "itself."),
    ForeignName("per_device_train_batch_size per_device_eval_batch_size per_gpu_train_batch_size "
                "per_gpu_batch_size micro_batch_size micro_train_batch_size micro_batchsize "
                "device_batch_size eval_batch_size",
                "/training/per_device_batch_size",
                "It counts the pairs of one forward pass and must divide /training/batch_size."),
    ForeignName("max_seq_length max_seq_len max_sequence_length seq_length seq_len sequence_len "
                "sequence_length max_tokens max_len model_max_length context_length cutoff_len "
                "block_size max_prompt_length max_completion_length max_target_length",
                "/training/max_length", "It counts the tokens of prompt and reply together."),
    ForeignName("truncation truncate truncation_mode truncation_side drop_long "
                "excess_length_strategy",
                "/training/overlong",
                "An overlong pair is dropped, fails the job, or loses the start of its prompt."),
    ForeignName("padding_token", "/training/pad_token"),
    ForeignName("center_rewards reward_centering", "/training/center_rewards_coefficient"),
    ForeignName("activation_checkpointing use_gradient_checkpointing gradient_checkpoint",
                "/training/gradient_checkpointing"),
    ForeignName("gradient_checkpointing_kwargs", None, _NO_CHOICE),
    ForeignName("bf16 bfloat16", "/training/precision", value="bf16"),
    ForeignName("fp32 float32 no_half", "/training/precision", value="fp32"),
    ForeignName("dtype torch_dtype mixed_precision", "/training/precision"),
    ForeignName("fp16 float16 half",
                "/training/precision",
                "fp16 is not offered: bf16 has the range of fp32 and needs no loss scaling."),
    ForeignName("padding_free packing sample_packing use_liger_kernel use_liger "
                "attn_implementation flash_attention use_flash_attention use_flash_attention_2 "
                "flash_attn use_unsloth torch_compile",
                "/training/engine",
                "The default engine pads nothing and packs pairs where that is exact."),
    ForeignName("evals_per_epoch eval_strategy evaluation_strategy eval_every eval_interval "
                "evaluation_steps eval_frequency val_check_interval",
                "/training/eval_steps", "It counts optimiser steps."),
    ForeignName("save_steps save_strategy saves_per_epoch save_every save_interval "
                "checkpointing_steps checkpoint_interval checkpoint_every",
                "/training/checkpoint_steps", "It counts optimiser steps."),
    ForeignName("log_steps logging_interval log_every log_interval log_every_n_steps "
                "logging_strategy",
                "/training/logging_steps", "It counts optimiser steps."),
    ForeignName("early_stopping_patience early_stop_patience", "/training/early_stopping/patience"),
    ForeignName("early_stopping_threshold early_stopping_min_delta early_stopping_delta",
                "/training/early_stopping/min_delta"),
    ForeignName("load_best_model_at_end metric_for_best_model greater_is_better early_stop "
                "use_early_stopping save_best",
                "/training/early_stopping",
                "With it the best checkpoint by eval loss becomes the adapter."),
    ForeignName("data_seed random_seed random_state rng_seed shuffle_seed", "/training/seed"),
    ForeignName("optim optimiser optimizer_type optimizer_name", "/training/optimizer"),
    ForeignName("adam_beta1 adam_beta2 adam_epsilon betas optim_args",
                None, "Leave it out: optimisers run with the defaults of transformers."),
    ForeignName("method algorithm rl rl_type trainer_type stage loss loss_type objective task type "
                "reward_model beta",
                None, "Leave it out: every job trains a reward model with the Bradley-Terry loss."),
    # quantisation, device, bookkeeping
    ForeignName("load_in_4bit use_4bit qlora use_qlora bnb_4bit", "/quantization", value="4bit"),
    ForeignName("load_in_8bit use_8bit load_in_8_bit bnb_8bit", "/quantization", value="8bit"),
    ForeignName("quantization_config bnb_config bitsandbytes quantize quantization_bit quant "
                "bnb_4bit_quant_type bnb_4bit_compute_dtype bnb_4bit_use_double_quant",
                "/quantization"),
    ForeignName("gpu num_gpus n_gpus n_gpu gpu_count accelerator use_cpu no_cuda cuda device "
                "devices",
                "/resources/gpus"),
    ForeignName("timeout time_limit max_runtime max_time timeout_seconds max_seconds",
                "/resources/max_runtime_seconds"),
    ForeignName("deepspeed fsdp fsdp_config ddp ddp_backend ddp_timeout ddp_bucket_cap_mb "
                "ddp_broadcast_buffers ddp_static_graph ddp_find_unused_parameters local_rank "
                "accelerator_config parallelism_config num_processes nproc_per_node world_size",
                None, "Leave it out: one job runs on one device."),
    ForeignName("run_name job_name experiment_name experiment suffix title display_name", "/name"),
    ForeignName("tags labels annotations user_metadata", "/metadata"),
    ForeignName("output_dir output_path save_path hub_model_id hub_token hub_strategy hub_revision "
                "hub_private_repo hub_always_push push_to_hub "
                "save_total_limit save_safetensors save_only_model overwrite_output_dir",
                None,
                "Leave it out: the adapter is downloaded from GET "
                "/v1/adapters/{adapter_id}/archive."),
    ForeignName("report_to logging_dir wandb wandb_project wandb_entity wandb_run_name use_wandb "
                "integrations tensorboard project trackio_space_id trackio_bucket_id "
                "trackio_static_space_id",
                None, "Leave it out: GET /v1/jobs/{job_id}/metrics has every logged value."),
    ForeignName("resume_from_checkpoint resume_checkpoint",
                None,
                'Leave it out: POST /v1/jobs/{job_id}/clone with "from_checkpoint": true does it.'),
    ForeignName("label_smoothing label_smoothing_factor neftune_noise_alpha model_init_kwargs "
                "optim_target_modules full_determinism do_predict",
                None, "Leave it out: this part of RewardConfig cannot be set."),
    ForeignName("dataset_num_proc dataloader_num_workers dataloader_pin_memory "
                "dataloader_drop_last dataloader_persistent_workers dataloader_prefetch_factor "
                "dataloader_multiprocessing_context dataloader_in_order train_sampling_strategy "
                "length_column_name group_by_length remove_unused_columns num_workers "
                "preprocessing_num_workers eos_token pad_to_multiple_of label_names "
                "do_train ignore_mismatched_sizes ignore_data_skip disable_tqdm log_level "
                "log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter "
                "include_num_input_tokens_seen include_for_metrics prediction_loss_only eval_delay "
                "eval_on_start eval_do_concat_batches eval_use_gather_object "
                "eval_accumulation_steps batch_eval_metrics bf16_full_eval fp16_full_eval "
                "average_tokens_across_devices auto_find_batch_size torch_empty_cache_steps "
                "activation_offloading activation_checkpointing_kwargs use_cache debug "
                "skip_memory_metrics enable_jit_checkpoint save_on_each_node "
                "restore_callback_states_from_checkpoint liger_kernel_config "
                "torch_compile_backend torch_compile_mode tf32",
                None, _NO_CHOICE),
    # values that belong elsewhere in the request
    ForeignName("dry_run dryrun",
                None,
                "Leave it out: it is a parameter of the address, POST /v1/jobs?dry_run=true."),
    ForeignName("idempotency_key", None, "Leave it out: it is a header, Idempotency-Key."),
    ForeignName("webhook webhooks webhook_url callback callback_url",
                None, "Leave it out: POST /v1/webhooks names an address for all events."),
)  # fmt: skip
