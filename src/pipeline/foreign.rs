//! Words of other programs, `transformers`' and TRL's arguments and those of LLaMA-Factory, and what they are called here.
//! Whoever brings such a file gets an answer to every line of it.

/// What another program's word is here.
enum Ours {
    /// A key, and the map that has it.
    Key(&'static str, &'static str),
    /// Something that is said in another way, or not at all.
    Way(&'static str),
}

/// An answer.
pub(super) struct Answer {
    /// What to write.
    pub(super) help: String,
    /// The key of the same map that it stands for.
    pub(super) key: Option<&'static str>,
}

use Ours::{Key, Way};

const TRAIN: &str = "a `train` stage";
const TOP: &str = "the top of the file";
const OBJECTIVE: Ours =
    Way("a setting of the objective, for example `objective: { dpo: { beta: 0.1 } }` (docs/objectives.md)");
const LORA: Ours = Way("`lora: { r: 16, alpha: 32 }` in a `train` stage");
const PRECISION: Ours =
    Way("`precision: bf16` at the top of the file, for `score` and `generate`, and in a `train` stage for its passes");
const MODEL: Ours = Way("`models: { NAME: { path: FOLDER } }`, and the name in the stage");
const READ: Ours =
    Way("`stages: { pairs: { read: { from: FILE } } }`, and the stage's name as `input` of other stages");
const EVAL: Ours = Way("`eval: { input: STAGE, every: STEPS }` in a `train` stage");
const MEMORY: Ours = Way("`memory: low` in a `train` stage keeps only the hidden states between layers");
const BATCH: Ours = Way(
    "`batch_size` of a `train` stage is the pairs of an optimizer step; it takes as many passes of `batch_tokens` tokens as it needs",
);
const KERNELS: Ours = Way("leave it out: kernels are chosen for the device");
const LOGS: Ours = Way("leave it out: metrics are in `logs` of the workdir, as JSON Lines and for TensorBoard");
const TRACKERS: Ours = Way(
    "leave it out: metrics are in `logs` of the workdir, and `python -m sepo.track` sends them to wandb, trackio or mlflow (docs/trackers.md)",
);
const PACKED: Ours = Way("leave it out: batches are always packed, and nothing is padded");
const THREADS: Ours = Way("leave it out: all cores are used");
const WHOLE_WEIGHTS: Ours = Way("leave it out: weights are not quantized");
const ONE_PROCESS: Ours = Way("leave it out: one process trains; `sepo run --units I/N` shares scoring among machines");
const NO_ADAMS_KIN: Ours = Way("leave it out: AdamW is the optimizer");

/// Keys.
const KEYS: &[(&[&str], Ours)] = &[
    (&["lr"], Key("learning_rate", TRAIN)),
    (&["num_train_epochs", "num_epochs", "n_epochs"], Key("epochs", TRAIN)),
    (
        &[
            "per_device_train_batch_size",
            "train_batch_size",
            "micro_batch_size",
            "gradient_accumulation_steps",
            "auto_find_batch_size",
        ],
        BATCH,
    ),
    (&["per_device_eval_batch_size", "eval_batch_size"], Key("batch_tokens", TRAIN)),
    (
        &[
            "gradient_checkpointing",
            "gradient_checkpointing_kwargs",
            "activation_checkpointing",
            "activation_offloading",
            "disable_gradient_checkpointing",
            "use_unsloth_gc",
        ],
        MEMORY,
    ),
    (&["steps", "num_steps", "total_steps"], Key("max_steps", TRAIN)),
    (&["warmup_ratio"], Key("warmup", TRAIN)),
    (&["warmup_steps"], Way("`warmup` of a `train` stage is a share of the steps, in [0, 1)")),
    (&["lr_scheduler_type", "lr_scheduler", "scheduler"], Key("decay", TRAIN)),
    (&["adam_beta1", "adam_beta2"], Way("`betas: [0.9, 0.999]` in a `train` stage")),
    (&["adam_epsilon"], Key("eps", TRAIN)),
    (&["optim", "optim_args"], NO_ADAMS_KIN),
    (&["gradient_clipping", "clip_grad_norm"], Key("max_grad_norm", TRAIN)),
    (&["logging_steps"], Key("log_every", TRAIN)),
    (&["save_steps", "save_strategy"], Way("`checkpoint: { every: 200 }` in a `train` stage")),
    (&["save_total_limit"], Way("`checkpoint: { keep: 2 }` in a `train` stage")),
    (&["eval_steps", "eval_strategy", "evaluation_strategy", "eval_dataset", "eval_on_start", "do_eval"], EVAL),
    (&["resume_from_checkpoint"], Way("leave it out: the same command resumes the run")),
    (
        &["load_best_model_at_end", "metric_for_best_model", "early_stopping_steps"],
        Way("leave it out: the model of the last step is kept"),
    ),
    (&["disable_shuffling", "shuffle"], Way("`shuffle_window: 0` in a `train` stage takes the rows in order")),
    (&["loss_type", "pref_loss"], Key("objective", TRAIN)),
    (
        &[
            "beta",
            "pref_beta",
            "gamma",
            "simpo_gamma",
            "label_smoothing",
            "dpo_label_smoothing",
            "label_smoothing_factor",
            "rpo_alpha",
            "pref_ftx",
            "ld_alpha",
        ],
        OBJECTIVE,
    ),
    (&["ref_model", "ref_model_name", "ref_model_name_or_path"], Key("reference", TRAIN)),
    (
        &["precompute_ref_log_probs", "precompute_ref_batch_size"],
        Way("leave it out: a reference's log-probabilities are always computed once"),
    ),
    (&["model_name_or_path", "model_name", "pretrained_model_name_or_path", "base_model"], MODEL),
    (&["adapter_name_or_path"], Way("`models: { NAME: { path: FOLDER, adapter: FOLDER } }`")),
    (&["model_revision", "revision"], Way("a part of the address: `hf://org/name@REVISION`")),
    (&["finetuning_type", "peft_config", "use_peft", "lora_config"], LORA),
    (&["lora_r", "lora_rank", "rank"], Key("r", "`lora` in a `train` stage")),
    (&["lora_alpha"], Key("alpha", "`lora` in a `train` stage")),
    (&["lora_target", "lora_target_modules", "target_modules"], Key("targets", "`lora` in a `train` stage")),
    (&["use_rslora"], Key("rslora", "`lora` in a `train` stage")),
    (&["lora_dropout", "disable_dropout"], Way("leave it out: there is no dropout")),
    (
        &[
            "bf16",
            "fp16",
            "pure_bf16",
            "tf32",
            "fp8",
            "bf16_full_eval",
            "fp16_full_eval",
            "torch_dtype",
            "dtype",
            "compute_dtype",
            "infer_dtype",
        ],
        PRECISION,
    ),
    (
        &["load_in_4bit", "load_in_8bit", "quantization_bit", "quantization_method", "double_quantization"],
        WHOLE_WEIGHTS,
    ),
    (
        &[
            "deepspeed",
            "fsdp",
            "fsdp_config",
            "ddp_timeout",
            "ddp_backend",
            "accelerator_config",
            "parallelism_config",
            "local_rank",
        ],
        ONE_PROCESS,
    ),
    (&["output_dir", "save_dir", "export_dir"], Key("workdir", TOP)),
    (
        &["overwrite_output_dir", "overwrite_cache"],
        Way(
            "`sepo run --fresh` does everything again; `overwrite: true` in a `write` or `train` stage replaces files that sepo did not write",
        ),
    ),
    (&["report_to", "run_name", "wandb_project"], TRACKERS),
    (&["logging_dir", "plot_loss", "logging_strategy"], LOGS),
    (&["data_seed"], Key("seed", TOP)),
    (&["seed"], Key("seed", TOP)),
    (&["device"], Key("device", TOP)),
    (&["precision"], Key("precision", TOP)),
    (&["device_map", "use_cpu", "no_cuda"], Key("device", TOP)),
    (&["dataset", "dataset_name", "dataset_dir", "train_dataset", "train_file", "data_files", "data_path"], READ),
    (&["max_samples"], Key("limit", "a `read` stage")),
    (
        &["val_size", "test_size"],
        Way("`split: { held_out: 0.1, keep: train }` in a `read` stage, and another one with `keep: held_out`"),
    ),
    (
        &[
            "cutoff_len",
            "max_length",
            "max_seq_length",
            "max_seq_len",
            "max_prompt_length",
            "max_completion_length",
            "model_max_length",
        ],
        Key("max_length", "a `tokenize` stage"),
    ),
    (&["template", "chat_template"], Key("template", "a `tokenize` stage")),
    (&["tokenizer", "tokenizer_name"], Key("tokenizer", "a `tokenize` stage")),
    (&["packing", "neat_packing", "padding_free", "padding", "pad_token", "pad_to_multiple_of"], PACKED),
    (&["max_new_tokens"], Key("max_tokens", "a `generate` stage")),
    (&["do_sample"], Way("a `temperature` above 0 in a `generate` stage")),
    (&["num_return_sequences"], Key("samples", "a `generate` stage")),
    (&["temperature", "top_p"], Way("a setting of a `generate` stage")),
    (&["dataloader_num_workers", "preprocessing_num_workers", "dataset_num_proc", "preprocessing_batch_size"], THREADS),
    (
        &[
            "torch_compile",
            "flash_attn",
            "attn_implementation",
            "use_liger_kernel",
            "enable_liger_kernel",
            "use_unsloth",
        ],
        KERNELS,
    ),
    (&["trust_remote_code"], Way("leave it out: no code of a model is run")),
    (&["do_train", "do_predict"], Way("leave it out: `sepo run FILE` runs all stages, `--only STAGE` one of them")),
    (
        &["push_to_hub", "hub_model_id", "hub_strategy"],
        Way("`to: hf://org/name` in a `train` stage uploads its model (docs/hub.md)"),
    ),
    (&["hub_private_repo"], Way("`create: private` in a `train` or `write` stage")),
    (&["hub_token", "use_auth_token"], Way("leave it out: the token comes from HF_TOKEN, or from `hf auth login`")),
];

/// Names and choices.
const WORDS: &[(&[&str], &str)] = &[
    (&["sigmoid", "dpo_sigmoid"], "dpo: {}"),
    (&["robust", "cdpo"], "dpo: { label_smoothing: 0.1, robust: true }"),
    (&["constant_with_warmup", "none"], "constant"),
    (&["cosine_with_restarts", "cosine_with_min_lr"], "cosine"),
    (&["bfloat16"], "bf16"),
    (&["float32", "fp32", "float"], "f32"),
    (&["sharegpt", "alpaca"], "auto"),
];

/// What the key `word` is called here, in a map with the keys `choices`.
pub(super) fn key(word: &str, choices: &[&str]) -> Option<Answer> {
    let (_, ours) = KEYS.iter().find(|(words, _)| words.contains(&word))?;
    Some(match ours {
        Key(key, _) if choices.contains(key) => Answer { help: format!("did you mean `{key}`?"), key: Some(key) },
        Key(key, place) => Answer { help: format!("the setting here is `{key}` of {place}"), key: None },
        Way(way) => Answer { help: (*way).to_owned(), key: None },
    })
}

/// What the name or choice `word` is called here, if it is one of `choices`.
pub(super) fn choice(word: &str, choices: &[&str]) -> Option<String> {
    let (_, ours) = WORDS.iter().find(|(words, _)| words.contains(&word))?;
    let name = ours.split(':').next().unwrap_or_default();
    choices.contains(&name).then(|| format!("did you mean `{ours}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::schema::of;
    use crate::pipeline::spec::File;

    #[test]
    fn every_key_that_an_answer_names_is_one_of_ours() {
        let schema = of::<File>().to_string();
        let mut words: Vec<&str> = KEYS.iter().flat_map(|(words, _)| *words).copied().collect();
        for (_, ours) in KEYS {
            if let Key(key, _) = ours {
                assert!(schema.contains(&format!("\"{key}\":{{")), "{key}");
            }
        }
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count, "a word has one answer");
    }

    #[test]
    fn a_key_of_the_map_is_named_and_others_are_described() {
        let help = |word, choices: &[&str]| key(word, choices).unwrap().help;
        assert_eq!(help("lr", &["learning_rate", "epochs"]), "did you mean `learning_rate`?");
        assert_eq!(help("lr", &["workdir"]), "the setting here is `learning_rate` of a `train` stage");
        assert!(help("bf16", &[]).starts_with("`precision: bf16` at the top"));
        assert!(key("wrkdir", &["workdir"]).is_none());
        assert_eq!(choice("sigmoid", &["dpo", "ipo"]).unwrap(), "did you mean `dpo: {}`?");
        assert!(choice("sigmoid", &["share"]).is_none());
    }
}
