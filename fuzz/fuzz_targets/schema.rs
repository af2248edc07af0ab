//! JSON Schemas: reading, the grammar, and answers chosen by the fuzzer.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use kinglet_model::tokenizer::Tokenizer;
use kinglet_model::{Constraint, Schema, Shape, Source, Vocabulary};
use libfuzzer_sys::fuzz_target;

static TINY: &[u8] = include_bytes!("../../runtime/assets/kinglet-tiny.gguf");
static TOKENS: LazyLock<(Tokenizer, Vocabulary, usize)> = LazyLock::new(|| {
    let source = Source::from_bytes(Bytes::from_static(TINY), "kinglet-tiny").unwrap();
    let tokenizer = source.tokenizer().unwrap();
    let tokens = source.config.language.vocabulary;
    let vocabulary = Vocabulary::new(&tokenizer, tokens).unwrap();
    (tokenizer, vocabulary, tokens)
});

// A schema, a zero byte, and the choices of the answer.
fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |b| *b == 0);
    let text = std::str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
    let choices = parts.next().unwrap_or_default();
    let Ok(schema) = Schema::from_json(text) else {
        return;
    };
    let (tokenizer, vocabulary, tokens) = &*TOKENS;
    // A grammar may be too large for the library; it must say so.
    let Ok(mut shape) = Shape::of_schema(vocabulary, &schema) else {
        return;
    };
    let mut ids = Vec::new();
    for choice in choices {
        let mut logits = vec![0.0; *tokens];
        shape.mask(&mut logits).unwrap();
        let allowed: Vec<u32> = (0..*tokens as u32)
            .filter(|id| logits[*id as usize] == 0.0)
            .collect();
        let id = allowed[usize::from(*choice) % allowed.len()];
        if id == tokenizer.text_end {
            let answer = tokenizer.decode(&ids).unwrap();
            assert!(answer.len() <= schema.longest());
            serde_json::from_str::<serde_json::Value>(&answer).unwrap();
            return;
        }
        shape.accept(id).unwrap();
        ids.push(id);
        assert!(ids.len() <= schema.longest());
    }
});
