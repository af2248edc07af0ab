//! The bytes of every token, as grammars need them.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::ParserFactory;
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::error::{ModelError, Result};
use crate::tokenizer::Tokenizer;

/// Longer tokens are never needed: an answer has shorter ones for everything.
const LONGEST_TOKEN: usize = 128;

/// A model's tokens in the order of their bytes. It is built once a model.
pub struct Vocabulary {
    pub(super) factory: ParserFactory,
    pub(super) tokens: usize,
}

impl Vocabulary {
    /// Reads the tokens of a tokenizer for a model with `vocabulary` embeddings.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] naming the first character of JSON that no token spells.
    pub fn new(tokenizer: &Tokenizer, vocabulary: usize) -> Result<Self> {
        let bytes = byte_level();
        let special = [
            tokenizer.text_start,
            tokenizer.text_end,
            tokenizer.picture_start,
            tokenizer.picture_end,
        ];
        let words: Vec<Vec<u8>> = (0..vocabulary as u32)
            .map(|id| {
                let name = tokenizer.name(id).filter(|_| !special.contains(&id));
                let word: Option<Vec<u8>> =
                    name.and_then(|n| n.chars().map(|c| bytes.get(&c).copied()).collect());
                // No text holds the byte 255; the trie keeps it for tokens of its own.
                word.filter(|w| w.len() <= LONGEST_TOKEN && !w.contains(&0xFF))
                    .unwrap_or_default()
            })
            .collect();
        let mut spelled = [false; 256];
        for word in &words {
            if let [byte] = word[..] {
                spelled[usize::from(byte)] = true;
            }
        }
        // 245 and above, 192 and 193 begin no character of UTF-8.
        let needed = (0x20..0x7F).chain(0x80..0xC0).chain(0xC2..0xF5);
        for byte in needed {
            if !spelled[byte] {
                let what = match char::from(byte as u8) {
                    c if byte < 0x80 => format!("'{c}'"),
                    _ => format!("the byte {byte:#04x}"),
                };
                let text = format!(
                    "this model's tokenizer has no token for {what}, so answers cannot be held to a shape"
                );
                return Err(ModelError::Tokenizer(text));
            }
        }
        let info = TokRxInfo::new(vocabulary as u32, tokenizer.text_end);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
        let mut factory = ParserFactory::new_simple(&environment)
            .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Vocabulary {
            factory,
            tokens: vocabulary,
        })
    }
}

/// The bytes that the characters of a byte-level tokenizer's names stand for: printable ones for
/// themselves, the others, in their order, for the characters from 256 on.
fn byte_level() -> HashMap<char, u8> {
    let mut others = (256u32..).filter_map(char::from_u32);
    (0..=255u8)
        .filter_map(|byte| {
            let itself = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
            let name = if itself {
                Some(char::from(byte))
            } else {
                others.next()
            };
            name.map(|name| (name, byte))
        })
        .collect()
}
