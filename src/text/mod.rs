//! Text to token ids and back: tokenizers and chat templates as `transformers` saves them. No tensor is known here.

pub mod chat_template;
pub(crate) mod description;
pub mod tokenizer;

pub use chat_template::{ChatTemplate, Message, Rendered, Template};
pub use tokenizer::Tokenizer;
