//! Everything that `data/quickstart` holds, made from nothing but this code.

pub(crate) mod bpe;
pub(crate) mod rows;
pub(crate) mod rules;
pub(crate) mod words;

/// The chat template: every turn under its mark, closed by `<|end|>`.
pub(crate) const CHAT_TEMPLATE: &str = "\
{%- for message in messages -%}
    {%- if message['role'] not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception('no such role: ' + message['role']) -}}
    {%- endif -%}
    {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
";

/// `tokenizer_config.json`.
pub(crate) const TOKENIZER_CONFIG: &str = r#"{
  "tokenizer_class": "PreTrainedTokenizerFast",
  "eos_token": "<|end|>",
  "pad_token": "<|pad|>",
  "clean_up_tokenization_spaces": false,
  "model_max_length": 512
}
"#;
