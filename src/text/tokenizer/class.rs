//! Tokenizer classes of `transformers` that do not take `tokenizer.json` as it is.
//!
//! From version 5 on, some classes build their tokenizer from the file's vocabulary and merges alone, with a normalizer and a
//! pre-tokenizer of their own, which `add_prefix_space` and `legacy` in `tokenizer_config.json` change. `AutoTokenizer` picks
//! the class by `tokenizer_class` and, where that is wrong or missing, by the model's type. The other classes, and
//! `PreTrainedTokenizerFast` above all, keep to the file.

use serde_json::{Value, json};
use tokenizers::{DecoderWrapper, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::special_tokens::Files;

/// A class that builds its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Llama,
    CodeLlama,
    Gemma,
    Qwen2,
    Qwen3_5,
    Gpt2,
    GptNeoX,
    Cohere,
}

/// What `AutoTokenizer` knows of a model's type.
enum Registered {
    /// The class of its tokenizers.
    Own(Class),
    /// Its tokenizers take the file as it is.
    AsItIs,
    /// Whatever the folder names.
    Unknown,
}

/// Types whose folders name a wrong class: the registered one counts. (`MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`, those with
/// a class of their own.)
const WRONGLY_NAMED: [&str; 6] =
    ["qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp", "hyperclovax_vision_v2"];

/// As [`WRONGLY_NAMED`], where the file counts.
const WRONGLY_NAMED_AS_IT_IS: [&str; 33] = [
    "arctic",
    "chatlm",
    "cohere_asr",
    "ernie4_5",
    "ernie4_5_moe",
    "fuyu",
    "h2ovl_chat",
    "hyperclovax",
    "hyperclovax_vlm",
    "internlm2",
    "internlm3",
    "iquestcoder",
    "jamba",
    "llava",
    "llava_next",
    "minicpm3",
    "minicpmv",
    "minimax_m2",
    "modernbert",
    "modernbert-decoder",
    "molmo",
    "molmo2",
    "nemotron",
    "nvfp4",
    "opencua",
    "openvla",
    "paddleocr_vl",
    "phi3",
    "phi3_v",
    "phimoe",
    "smolvlm",
    "step3_vl",
    "vipllava",
];

fn registered(model_type: &str) -> Registered {
    match model_type {
        "code_llama" => Registered::Own(Class::CodeLlama),
        "idefics" | "idefics2" => Registered::Own(Class::Llama),
        "gemma" | "gemma2" | "gemma3" | "gemma3_text" | "gemma3n" | "gemma3n_text" | "recurrent_gemma"
        | "diffusion_gemma" => Registered::Own(Class::Gemma),
        "qwen2" | "qwen2_moe" | "qwen2_vl" | "qwen2_5_vl" | "qwen2_5_omni" | "qwen2_audio" | "qwen3" | "qwen3_moe"
        | "qwen3_next" | "qwen3_vl" | "qwen3_vl_moe" | "qwen3_omni_moe" | "internvl" => Registered::Own(Class::Qwen2),
        "qwen3_5" | "qwen3_5_moe" | "qwen3_5_text" | "qwen3_5_moe_text" | "qwen4_exp" => {
            Registered::Own(Class::Qwen3_5)
        }
        "gpt2"
        | "gpt_neo"
        | "gptj"
        | "codegen"
        | "dbrx"
        | "emu3"
        | "hyperclovax_vision_v2"
        | "jais2"
        | "opt"
        | "phi"
        | "starcoder2" => Registered::Own(Class::Gpt2),
        "gpt_neox" | "mpt" | "olmo" | "olmoe" | "mamba" | "mamba2" | "falcon_mamba" | "rwkv" | "xlstm" => {
            Registered::Own(Class::GptNeoX)
        }
        "cohere" | "cohere2" | "aya_vision" => Registered::Own(Class::Cohere),
        "flex_olmo" | "glm" | "glm4" | "glm4_moe" | "glm4_moe_lite" | "gpt_bigcode" | "granite" | "granitemoe"
        | "granitemoehybrid" | "granitemoeshared" | "kimi_k25" | "kimi_linear" | "mimo_v2_flash" | "ministral"
        | "ministral3" | "mistral" | "mistral3" | "mixtral" | "olmo2" | "olmo3" | "olmo_hybrid" | "persimmon"
        | "pixtral" | "stablelm" | "voxtral" => Registered::AsItIs,
        other if WRONGLY_NAMED_AS_IT_IS.contains(&other) => Registered::AsItIs,
        _ => Registered::Unknown,
    }
}

impl Class {
    /// The class that `AutoTokenizer` takes for a folder, if it is one of these; `byte_level` says whether the file mentions
    /// `ByteLevel`.
    pub(super) fn of(files: &Files, byte_level: bool) -> Option<Self> {
        let text = |file: &serde_json::Map<String, Value>, name: &str| file.get(name)?.as_str().map(str::to_owned);
        let configured = text(&files.config, "tokenizer_class");
        let named = configured.or_else(|| text(&files.model, "tokenizer_class"));
        let named = named.as_deref().map(|name| name.strip_suffix("Fast").unwrap_or(name));
        let own = named.map(Self::named);
        let model_type = text(&files.model, "model_type").unwrap_or_default();
        let wrongly = WRONGLY_NAMED.contains(&&*model_type);
        let unreliable = wrongly || WRONGLY_NAMED_AS_IT_IS.contains(&&*model_type);
        // A Llama tokenizer of the third generation is byte-level, which the class is not.
        if own == Some(Some(Self::Llama)) && byte_level && !unreliable {
            return None;
        }
        match (registered(&model_type), own) {
            (Registered::Own(class), None) => Some(class),
            (Registered::Own(class), Some(own)) if own != Some(class) => {
                if wrongly {
                    Some(class)
                } else {
                    own
                }
            }
            (Registered::Own(class), Some(_)) => Some(class),
            (Registered::AsItIs, _) => None,
            (Registered::Unknown, own) => own.flatten(),
        }
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "LlamaTokenizer" => Self::Llama,
            "CodeLlamaTokenizer" => Self::CodeLlama,
            "GemmaTokenizer" => Self::Gemma,
            "Qwen2Tokenizer" => Self::Qwen2,
            "Qwen3_5Tokenizer" => Self::Qwen3_5,
            "GPT2Tokenizer" => Self::Gpt2,
            "GPTNeoXTokenizer" => Self::GptNeoX,
            "CohereTokenizer" => Self::Cohere,
            _ => return None,
        })
    }

    /// The special tokens that it has where no file says otherwise.
    pub(super) fn tokens(self) -> &'static [(&'static str, &'static str)] {
        const END: &str = "<|endoftext|>";
        match self {
            Self::Llama | Self::CodeLlama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
            Self::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::Qwen2 | Self::Qwen3_5 => &[("eos_token", END), ("unk_token", END), ("pad_token", END)],
            Self::Gpt2 => &[("bos_token", END), ("eos_token", END), ("unk_token", END)],
            Self::GptNeoX => {
                &[("bos_token", END), ("eos_token", END), ("unk_token", END), ("pad_token", "<|padding|>")]
            }
            Self::Cohere => &[
                ("bos_token", "<BOS_TOKEN>"),
                ("eos_token", "<|END_OF_TURN_TOKEN|>"),
                ("unk_token", "<UNK>"),
                ("sep_token", "<SEP>"),
                ("pad_token", "<PAD>"),
                ("cls_token", "<CLS>"),
                ("mask_token", "<MASK_TOKEN>"),
            ],
        }
    }

    /// Its normalizer, pre-tokenizer and decoder, in the form of `tokenizer.json`.
    fn parts(self, files: &Files) -> [Value; 3] {
        let setting = |name: &str| files.config.get(name).and_then(Value::as_bool);
        let prefix = setting("add_prefix_space");
        let nfc = json!({"type": "NFC"});
        let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix.unwrap_or(false), "trim_offsets": true, "use_regex": use_regex});
        let sequence = |items: Value| json!({"type": "Sequence", "pretokenizers": items});
        let split = |pattern: Value, behavior: &str| json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": false});
        let from_bytes =
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let spaces = |strip: bool| {
            let mut decoders = vec![
                json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
                json!({"type": "ByteFallback"}),
                json!({"type": "Fuse"}),
            ];
            decoders.extend(strip.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})));
            json!({"type": "Sequence", "decoders": decoders})
        };
        match self {
            Self::Llama | Self::CodeLlama => {
                let scheme = match (prefix.unwrap_or(true), self, setting("legacy")) {
                    (false, ..) => "never",
                    (true, Self::Llama, Some(true)) => "always",
                    _ => "first",
                };
                let metaspace =
                    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
                [Value::Null, metaspace, spaces(self == Self::CodeLlama || scheme != "never")]
            }
            Self::Gemma => {
                let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
                [replace, split(json!({"String": " "}), "MergedWithPrevious"), spaces(false)]
            }
            Self::Qwen2 | Self::Qwen3_5 => {
                let pattern = if self == Self::Qwen2 { QWEN2 } else { QWEN3_5 };
                let words = split(json!({"Regex": pattern}), "Isolated");
                [nfc, sequence(json!([words, bytes(false)])), from_bytes]
            }
            Self::Gpt2 => [Value::Null, bytes(true), from_bytes],
            Self::GptNeoX => [nfc, bytes(true), from_bytes],
            Self::Cohere => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                [nfc, sequence(json!([digits, bytes(true)])), from_bytes]
            }
        }
    }

    /// Puts its own parts in the place of those of `tokenizer`; whether ids may be others than the file's.
    pub(super) fn rebuild(self, tokenizer: &mut tokenizers::Tokenizer, files: &Files) -> tokenizers::Result<bool> {
        let ModelWrapper::BPE(model) = tokenizer.get_model() else { return Ok(false) };
        let mut model = model.clone();
        let spaces = matches!(self, Self::Llama | Self::CodeLlama | Self::Gemma);
        model.dropout = None;
        model.fuse_unk = spaces;
        model.byte_fallback = spaces;
        model.ignore_merges = false;
        let unknown = files.config.get("unk_token").and_then(|token| token.as_str().or(token.get("content")?.as_str()));
        model.unk_token = match self {
            Self::CodeLlama | Self::Gemma => Some(unknown.unwrap_or("<unk>").to_owned()),
            _ => None,
        };
        let deciding = |tokenizer: &tokenizers::Tokenizer| -> tokenizers::Result<[Value; 2]> {
            Ok([
                serde_json::to_value(tokenizer.get_normalizer())?,
                serde_json::to_value(tokenizer.get_pre_tokenizer())?,
            ])
        };
        let before = deciding(tokenizer)?;
        let [normalizer, pre_tokenizer, decoder] = self.parts(files);
        tokenizer.with_model(model);
        tokenizer.with_normalizer(serde_json::from_value::<Option<NormalizerWrapper>>(normalizer)?)?;
        tokenizer.with_pre_tokenizer(serde_json::from_value::<Option<PreTokenizerWrapper>>(pre_tokenizer)?);
        tokenizer.with_decoder(serde_json::from_value::<Option<DecoderWrapper>>(decoder)?);
        if self == Self::GptNeoX {
            tokenizer.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        }
        Ok(before != deciding(tokenizer)?)
    }
}

/// What Qwen 2 and 3 split texts by.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// What Qwen 3.5 splits texts by: marks are letters.
const QWEN3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
