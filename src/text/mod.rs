//! Tokenizers and chat templates as `transformers` saves them: text to token ids and back. Tensors are unknown here.

pub mod chat_template;
pub(crate) mod description;
pub mod tokenizer;

pub use chat_template::{ChatTemplate, Message, Rendered, Template};
pub use tokenizer::{Piece, Tokenizer};
