//! Answers of a shape: whatever the model prefers, they parse and validate.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kinglet_kernels::Cpu;
use kinglet_model::answer::LONGEST_ANSWER;
use kinglet_model::tokenizer::Tokenizer;
use kinglet_model::{
    Constraint, Model, ModelError, Sampling, Schema, Shape, Source, Vocabulary, WriteOptions,
};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

fn source() -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/kinglet-tiny.gguf");
    Source::open(&path).unwrap()
}

fn tiny() -> Arc<Model<Cpu>> {
    Model::load(&source(), Cpu::from_environment().unwrap()).unwrap()
}

fn vocabulary() -> (Tokenizer, Vocabulary, usize) {
    let source = source();
    let (tokenizer, tokens) = (
        source.tokenizer().unwrap(),
        source.config.language.vocabulary,
    );
    let vocabulary = Vocabulary::new(&tokenizer, tokens).unwrap();
    (tokenizer, vocabulary, tokens)
}

/// A schema of the supported keywords, by lot.
fn schema(rng: &mut ChaCha8Rng, depth: usize) -> Value {
    let kinds = match depth {
        0 => 5..10,
        1 | 2 => 0..10,
        _ => 0..7,
    };
    match rng.random_range(kinds) {
        0 => json!({ "type": "boolean", "title": "a" }),
        1 => {
            let values = [
                json!("red"),
                json!("gr\u{fc}n \"\\\n"),
                json!(""),
                json!(-3),
                json!(0.25),
                json!(true),
                Value::Null,
            ];
            let some: Vec<&Value> = values.choose_multiple(rng, 3).collect();
            json!({ "enum": some })
        }
        2 => json!({ "const": rng.random_range(-1000i64..1000) }),
        3 => {
            let min = rng.random_range(0..6);
            let mut schema = json!({ "type": "string", "minLength": min });
            if rng.random() {
                schema["maxLength"] = json!(min + rng.random_range(0..12));
            }
            schema
        }
        4 | 5 => number(rng),
        6 => {
            let mut schema = number(rng);
            let kind = schema["type"].take();
            schema["type"] = json!([kind, "null"]);
            schema
        }
        7 => {
            let min = rng.random_range(0..3);
            let max = min + rng.random_range(0..3);
            let items = schema(rng, depth + 1);
            json!({ "type": "array", "items": items, "minItems": min, "maxItems": max })
        }
        8 => {
            let choices: Vec<Value> = (0..rng.random_range(1..4))
                .map(|_| schema(rng, depth + 1))
                .collect();
            json!({ "anyOf": choices })
        }
        _ => {
            let (mut properties, mut required) = (Map::new(), Vec::new());
            for key in ["a", "ab", "what is it", "\u{e9}\"\\", ""] {
                if rng.random() {
                    properties.insert(key.to_owned(), schema(rng, depth + 1));
                    if rng.random() {
                        required.push(key);
                    }
                }
            }
            let mut schema = json!({ "type": "object", "properties": properties });
            if rng.random() {
                schema["required"] = json!(required);
                schema["additionalProperties"] = json!(false);
            }
            schema
        }
    }
}

fn number(rng: &mut ChaCha8Rng) -> Value {
    let size = 10f64.powi(rng.random_range(-6..13));
    let (a, b) = (rng.random_range(-size..size), rng.random_range(-size..size));
    if rng.random() {
        let (low, high) = (a.min(b).floor() as i64, a.max(b).ceil() as i64);
        match rng.random_range(0..4) {
            0 => json!({ "type": "integer" }),
            1 => json!({ "type": "integer", "minimum": low }),
            2 => json!({ "type": "integer", "exclusiveMinimum": low - 1, "maximum": high }),
            _ => json!({ "type": "integer", "minimum": low, "exclusiveMaximum": high + 1 }),
        }
    } else {
        // Numbers that are not whole have nine digits before the point.
        let (a, b) = (a % 1e9, b % 1e9);
        match rng.random_range(0..4) {
            0 => json!({ "type": "number" }),
            1 => json!({ "type": "number", "exclusiveMaximum": a }),
            2 => json!({ "type": "number", "minimum": a.min(b), "maximum": a.max(b) + 1e-5 }),
            _ => {
                json!({ "type": "number", "exclusiveMinimum": a.min(b) - 0.1, "maximum": a.max(b) })
            }
        }
    }
}

fn valid(schema: &Value, text: &str) {
    let answer: Value = serde_json::from_str(text)
        .unwrap_or_else(|e| panic!("under {schema} came {text:?}, which is no JSON: {e}"));
    let validator = jsonschema::validator_for(schema).unwrap();
    if let Err(e) = validator.validate(&answer) {
        panic!("under {schema} came {text}, which is not valid: {e}");
    }
}

/// How a language model that knows nothing chooses.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    /// By lot.
    Random,
    /// One byte at a time, and the end as late as may be.
    Long,
}

/// Writes with random logits.
fn invent(
    tokenizer: &Tokenizer,
    tokens: usize,
    shape: &mut Shape,
    habit: Habit,
    rng: &mut ChaCha8Rng,
) -> String {
    let mut ids = Vec::new();
    loop {
        let mut logits: Vec<f32> = (0..tokens).map(|_| rng.random()).collect();
        if habit == Habit::Long {
            for (id, logit) in logits.iter_mut().enumerate() {
                let text = tokenizer.decode(&[id as u32]).unwrap();
                if text.chars().count() > 1 {
                    *logit -= 2.0;
                } else if ["\"", "]", "}"].contains(&text.as_str()) {
                    *logit -= 1.0;
                }
            }
            logits[tokenizer.text_end as usize] = -4.0;
        }
        shape.mask(&mut logits).unwrap();
        let (id, _) = (0u32..)
            .zip(&logits)
            .max_by(|a, b| a.1.total_cmp(b.1))
            .unwrap();
        if id == tokenizer.text_end {
            return tokenizer.decode(&ids).unwrap();
        }
        shape.accept(id).unwrap();
        ids.push(id);
        assert!(ids.len() <= shape.longest(), "{} tokens", ids.len());
    }
}

#[test]
fn answers_under_a_thousand_random_schemas_parse_and_validate() {
    let (tokenizer, vocabulary, tokens) = vocabulary();
    let model = tiny();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut schemas, mut invented, mut written, mut too_long, mut longest) = (0, 0, 0, 0, 0);
    let mut building = Duration::ZERO;
    while schemas < 1000 {
        let value = schema(&mut rng, 0);
        let schema = match Schema::from_value(&value) {
            Ok(schema) => schema,
            // The generator does not count; the numbers of others overlap with nothing.
            Err(e) if e.to_string().contains("longest answer has") => {
                too_long += 1;
                continue;
            }
            Err(e) => panic!("{value}: {e}"),
        };
        schemas += 1;
        let started = Instant::now();
        let mut shape =
            Shape::of_schema(&vocabulary, &schema).unwrap_or_else(|e| panic!("{value}: {e}"));
        building += started.elapsed();
        if schemas % 16 == 0 && schema.longest() + 64 < model.config.language.context_length {
            let mut context = model.context();
            context.push_text("what is in the picture?").unwrap();
            let sampling = Sampling {
                temperature: 1.0,
                top_p: 0.9,
                seed: schemas,
            };
            let sampling = (schemas % 32 == 0).then_some(&sampling);
            let text = context
                .write_within(&mut shape, sampling, &mut |_| ControlFlow::Continue(()))
                .unwrap();
            assert!(text.complete);
            valid(&value, &text.text);
            written += 1;
        } else {
            let habit = if schemas % 4 == 0 {
                Habit::Long
            } else {
                Habit::Random
            };
            let text = invent(&tokenizer, tokens, &mut shape, habit, &mut rng);
            valid(&value, &text);
            longest = longest.max(text.len());
            invented += 1;
        }
    }
    println!(
        "answers: {schemas} schemas, {invented} answers by random logits (the longest {longest} bytes), {written} by kinglet-tiny, all valid; {too_long} more schemas refused as too long; {:.1} ms a grammar",
        building.as_secs_f64() * 1e3 / schemas as f64
    );
    assert!(written > 0, "kinglet-tiny wrote none");
}

/// Whether a shape allows a text, byte by byte.
fn allows(tokenizer: &Tokenizer, tokens: usize, mut shape: Shape, text: &str) -> bool {
    let next = |shape: &mut Shape, id: u32| {
        let mut logits = vec![0.0; tokens];
        shape.mask(&mut logits).unwrap();
        logits[id as usize] == 0.0
    };
    for c in text.chars() {
        let id = tokenizer.encode_data(&c.to_string()).unwrap()[0];
        if !next(&mut shape, id) {
            return false;
        }
        shape.accept(id).unwrap();
    }
    next(&mut shape, tokenizer.text_end)
}

#[test]
fn exactly_the_numbers_between_bounds_are_allowed() {
    let (tokenizer, vocabulary, tokens) = vocabulary();
    let shape =
        |value: &Value| Shape::of_schema(&vocabulary, &Schema::from_value(value).unwrap()).unwrap();
    for (low, high) in [(-13, 27), (0, 0), (7, 110), (-120, -9), (-1, 1)] {
        let schema = json!({ "type": "integer", "minimum": low, "maximum": high });
        for n in -130..130 {
            let allowed = allows(&tokenizer, tokens, shape(&schema), &n.to_string());
            assert_eq!(allowed, (low..=high).contains(&n), "{n} in {low}..={high}");
        }
    }
    for (low, high) in [(-0.15, 1.2), (0.37, 0.4), (-2.05, -1.9), (0.0, 3.0)] {
        let schema = json!({ "type": "number", "minimum": low, "maximum": high });
        for hundredths in -320i32..320 {
            let n = f64::from(hundredths) / 100.0;
            let allowed = allows(&tokenizer, tokens, shape(&schema), &n.to_string());
            assert_eq!(allowed, (low..=high).contains(&n), "{n} in {low}..={high}");
        }
    }
    for text in ["-0", "01", "+1", "1.0", "1e3", "", " 1", "1 "] {
        let schema = json!({ "type": "integer" });
        assert!(
            !allows(&tokenizer, tokens, shape(&schema), text),
            "{text:?}"
        );
    }
}

#[test]
fn what_a_schema_may_not_say_is_named() {
    let deep = format!(
        "{}{{\"type\":\"null\"}}{}",
        r#"{"type":"array","items":"#.repeat(20),
        "}".repeat(20)
    );
    let wide = json!({ "anyOf": vec![json!({ "type": "null" }); 600] }).to_string();
    let laughs = json!({
        "$ref": "#/$defs/a",
        "$defs": {
            "a": { "anyOf": vec![json!({ "$ref": "#/$defs/b" }); 30] },
            "b": { "anyOf": vec![json!({ "$ref": "#/$defs/c" }); 30] },
            "c": { "type": "null" },
        },
    })
    .to_string();
    let large = format!(r#"{{"title": "{}"}}"#, "a".repeat(70_000));
    for (schema, words) in [
        ("", "no JSON"),
        ("true", "a schema is an object"),
        ("{}", "\"type\" is missing"),
        (r#"{"type": "text"}"#, "no type \"text\""),
        (
            r#"{"type": "string", "pattern": "a*"}"#,
            "\"pattern\" is not supported",
        ),
        (
            r#"{"type": "string", "format": "date"}"#,
            "\"format\" is not supported",
        ),
        (r#"{"oneOf": []}"#, "\"oneOf\" is not supported"),
        (
            r#"{"type": "string", "minimum": 1}"#,
            "\"minimum\" does not belong",
        ),
        (r#"{"type": "array"}"#, "\"items\" is missing"),
        (
            r#"{"type": "array", "items": {"type": "null"}, "uniqueItems": true}"#,
            "uniqueItems",
        ),
        (r#"{"type": "object"}"#, "\"properties\" is missing"),
        (
            r#"{"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 2}}}"#,
            "#/properties/a: the keyword \"multipleOf\"",
        ),
        (
            r#"{"type": "object", "properties": {}, "required": ["b"]}"#,
            "\"b\", which is no property",
        ),
        (
            r#"{"type": "object", "properties": {}, "additionalProperties": {"type": "null"}}"#,
            "additionalProperties",
        ),
        (
            r#"{"$ref": "https://example.org/a.json"}"#,
            "another document",
        ),
        (r##"{"$ref": "#/$defs/a"}"##, "leads nowhere"),
        (r##"{"$ref": "#"}"##, "back to itself"),
        (
            r##"{"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}"##,
            "back to itself",
        ),
        (r#"{"enum": []}"#, "\"enum\""),
        (r#"{"enum": [{}]}"#, "enum and const hold"),
        (r#"{"type": "integer", "enum": ["a"]}"#, "not of the type"),
        (
            r#"{"type": "integer", "minimum": 2, "maximum": 1}"#,
            "bounds",
        ),
        (
            r#"{"type": "string", "minLength": 3, "maxLength": 2}"#,
            "nothing lies between",
        ),
        (
            r#"{"type": "string", "maxLength": 1000}"#,
            "longest answer has 4002 bytes",
        ),
        (
            r#"{"type": "string", "maxLength": 99999999999999999999}"#,
            "no whole number",
        ),
        (
            r#"{"type": "string", "maxLength": 18446744073709551615}"#,
            "longest answer",
        ),
        (
            r#"{"type": "array", "maxItems": 18446744073709551615, "items": {"type": "null"}}"#,
            "longest answer",
        ),
        (&deep, "deeper than 16"),
        (&wide, "more than 512"),
        (&laughs, "more than 512"),
        (&large, "at most 65536"),
    ] {
        let refused = Schema::from_json(schema).unwrap_err().to_string();
        assert!(refused.contains(words), "{schema:.80}: {refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
        assert!(refused.len() < 400, "{refused}");
    }
}

#[test]
fn a_tokenizer_that_cannot_spell_json_is_refused_by_name() {
    let special = [
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
    ];
    let mut names: Vec<String> = special.map(str::to_owned).to_vec();
    names.extend(
        (' '..='~')
            .filter(|c| *c != '{')
            .map(|c| c.to_string().replace(' ', "\u{120}")),
    );
    let vocab: Map<String, Value> = (0..)
        .zip(&names)
        .map(|(i, n)| (n.clone(), json!(i)))
        .collect();
    let added: Vec<Value> = (0..)
        .zip(special)
        .map(|(id, content): (u32, _)| {
            json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false })
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    });
    let tokenizer = Tokenizer::from_json(&tokenizer.to_string(), names.len()).unwrap();
    match Vocabulary::new(&tokenizer, names.len()) {
        Err(e) => assert!(e.to_string().contains("no token for '{'"), "{e}"),
        Ok(_) => panic!("it was accepted"),
    }
}

#[test]
fn an_answer_that_may_not_fit_the_context_is_refused_before_it_begins() {
    let model = tiny();
    let limit = model.config.language.context_length;
    let mut context = model.context();
    let schema = Schema::from_value(&json!({ "type": "string", "maxLength": 100 })).unwrap();
    let word = "what is in the picture? ";
    while context.position() as usize + 400 < limit {
        context.push_text(word).unwrap();
    }
    let before = context.position();
    let mut shape = Shape::of_schema(model.vocabulary().unwrap(), &schema).unwrap();
    let refused = context.write_within(&mut shape, None, &mut |_| ControlFlow::Continue(()));
    assert!(
        matches!(refused, Err(ModelError::Request { .. })),
        "{refused:?}"
    );
    assert_eq!(context.position(), before);
}

#[test]
fn one_of_two_words_is_written_as_it_is() {
    let model = tiny();
    let mut context = model.context();
    context.push_text("is it a cat?").unwrap();
    let mut shape = Shape::of_words(model.vocabulary().unwrap(), &["yes", "no"]).unwrap();
    let written = context
        .write_within(&mut shape, None, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(
        ["yes", "no"].contains(&written.text.as_str()),
        "{}",
        written.text
    );
}

/// The time of a token with and without a shape, in one run: the same number of tokens each.
#[test]
fn the_time_of_a_token_with_a_shape_is_told() {
    let model = tiny();
    let schema = Schema::from_value(&json!({
        "type": "object",
        "properties": {
            "what": { "type": "string", "minLength": 60, "maxLength": 60 },
            "count": { "type": "integer", "minimum": 0, "maximum": 9 },
        },
        "required": ["what", "count"],
    }))
    .unwrap();
    assert!(schema.longest() <= LONGEST_ANSWER);
    let mut asked = model.context();
    asked.push_text("what is in the picture?").unwrap();
    let go_on = &mut |_: &str| ControlFlow::Continue(());
    let (mut free, mut held) = (f64::INFINITY, f64::INFINITY);
    let mut grammar = f64::INFINITY;
    for _ in 0..5 {
        let started = Instant::now();
        let mut shape = Shape::of_schema(model.vocabulary().unwrap(), &schema).unwrap();
        grammar = grammar.min(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        let written = asked.fork().write_within(&mut shape, None, go_on).unwrap();
        held = held.min(started.elapsed().as_secs_f64() / written.tokens as f64);
        // Free answers of this model are short: several make as many tokens.
        let (mut tokens, started) = (0, Instant::now());
        while tokens < written.tokens {
            let options = WriteOptions::greedy(written.tokens);
            tokens += asked.fork().write(&options, go_on).unwrap().tokens + 1;
        }
        free = free.min(started.elapsed().as_secs_f64() / tokens as f64);
    }
    println!(
        "answers: a token takes {:.2} times as long with a shape; {grammar:.2} ms for the grammar",
        held / free
    );
    assert!(free > 0.0 && held > 0.0);
}
