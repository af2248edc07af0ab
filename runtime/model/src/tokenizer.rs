//! Text to token ids and back.

use tokenizers::Tokenizer as HfTokenizer;

use crate::error::{ModelError, Result};

/// The longest text that is tokenized, in bytes: far above any prompt, far below what would stall.
pub const LONGEST_TEXT: usize = 64 << 10;

/// A byte-level BPE tokenizer with the four special tokens of the family.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    trusted: HfTokenizer,
    data: HfTokenizer,
    /// `<|im_start|>`: begins a text block and a decoded answer.
    pub text_start: u32,
    /// `<|im_end|>`: ends a text block and a decoded answer.
    pub text_end: u32,
    /// `<|vision_start|>`: begins a picture block.
    pub picture_start: u32,
    /// `<|vision_end|>`: ends a picture block.
    pub picture_end: u32,
    vocabulary: usize,
}

impl Tokenizer {
    /// Builds the tokenizer from a tokenizer.json for a model with `vocabulary` embeddings.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the JSON is no tokenizer or a special token is missing or out
    /// of the vocabulary.
    pub fn from_json(json: &str, vocabulary: usize) -> Result<Self> {
        let trusted: HfTokenizer = json
            .parse()
            .map_err(|e| ModelError::Tokenizer(format!("it cannot be built: {e}")))?;
        let mut data = trusted.clone();
        data.set_encode_special_tokens(true);
        let special = |name: &str| {
            let id = trusted
                .token_to_id(name)
                .ok_or_else(|| ModelError::Tokenizer(format!("the token {name} is missing")))?;
            if id as usize >= vocabulary {
                let text =
                    format!("the token {name} is {id}, but there are {vocabulary} embeddings");
                return Err(ModelError::Tokenizer(text));
            }
            Ok(id)
        };
        Ok(Tokenizer {
            text_start: special("<|im_start|>")?,
            text_end: special("<|im_end|>")?,
            picture_start: special("<|vision_start|>")?,
            picture_end: special("<|vision_end|>")?,
            vocabulary,
            trusted,
            data,
        })
    }

    /// The ids of a text in which special tokens are recognised, as the reference does it. For text
    /// from outside use [`Tokenizer::encode_data`].
    ///
    /// # Errors
    /// [`ModelError::Request`] if the text is longer than [`LONGEST_TEXT`],
    /// [`ModelError::Tokenizer`] if an id has no embedding.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(&self.trusted, text)
    }

    /// The ids of a text from outside: what looks like a special token stays plain text, so nobody
    /// can end a block by writing its end.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_data(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(&self.data, text)
    }

    fn ids(&self, tokenizer: &HfTokenizer, text: &str) -> Result<Vec<u32>> {
        if text.len() > LONGEST_TEXT {
            return Err(ModelError::Request {
                what: "the text",
                got: format!("{} bytes long", text.len()),
                expected: format!("at most {LONGEST_TEXT} bytes are accepted"),
            });
        }
        let encoding = tokenizer
            .encode_fast(text, false)
            .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        let ids = encoding.get_ids().to_vec();
        match ids.iter().find(|id| **id as usize >= self.vocabulary) {
            Some(id) => Err(ModelError::Tokenizer(format!(
                "it gives the id {id}, but there are {} embeddings",
                self.vocabulary
            ))),
            None => Ok(ids),
        }
    }

    /// A text block: `<|im_start|>`, the ids, `<|im_end|>`.
    pub fn block(&self, ids: &[u32]) -> Vec<u32> {
        let mut block = vec![self.text_start];
        block.extend(ids);
        block.push(self.text_end);
        block
    }

    /// The name of a token, in the tokenizer's own spelling of bytes.
    pub(crate) fn name(&self, id: u32) -> Option<String> {
        self.trusted.id_to_token(id)
    }

    /// The text of ids, special tokens included.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.trusted
            .decode(ids, false)
            .map_err(|e| ModelError::Tokenizer(e.to_string()))
    }
}
