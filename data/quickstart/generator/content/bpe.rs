//! The quickstart tokenizer: byte-level BPE, trained on the training rows.

use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};
use tokenizers::{TokenizerBuilder, TokenizerImpl};

use super::rows::Row;

/// Size of the vocabulary, special tokens and the 256 bytes included.
pub(crate) const VOCABULARY: usize = 1280;
/// The special tokens, ids from 0. The last two are `eos_token` and `pad_token`.
pub(crate) const SPECIAL_TOKENS: [&str; 5] = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"];

type Bpe = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// `tokenizer.json`, indented.
pub(crate) fn tokenizer_json(rows: &[Row]) -> tokenizers::Result<String> {
    let byte_level = ByteLevel::new(false, false, true);
    let mut tokenizer: Bpe = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(byte_level.into()))
        .with_post_processor(None)
        .with_decoder(Some(byte_level.into()))
        .build()?;
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(VOCABULARY)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(SPECIAL_TOKENS.map(|text| AddedToken::from(text, true)).to_vec())
        .build();
    let texts: Vec<String> =
        rows.iter().flat_map(|row| [row.prompt.clone(), row.chosen().text, row.rejected().text]).collect();
    tokenizer.train(&mut trainer, texts.into_iter())?;
    tokenizer.to_string(true)
}
