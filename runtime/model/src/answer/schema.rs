//! The door for JSON Schemas: what is read is what an answer will keep to, and nothing is ignored.

use serde_json::{Map, Value};

use super::node::{Node, Property};
use super::range::{INTEGERS, MICROS, Range};
use crate::error::{ModelError, Result};

/// The largest schema, in bytes of JSON.
pub const LARGEST_SCHEMA: usize = 64 << 10;
/// How deep a schema may go, references followed.
pub const DEEPEST_SCHEMA: usize = 16;
/// The most schemas inside a schema, references followed.
pub const MOST_NODES: usize = 512;
/// The most values of an `enum`.
pub const MOST_VALUES: usize = 256;
/// The longest text where `maxLength` is left out, in characters.
pub const DEFAULT_LENGTH: usize = 32;
/// The longest list where `maxItems` is left out.
pub const DEFAULT_ITEMS: usize = 8;
/// The longest answer that a schema may allow, in bytes. A token is one byte at least.
pub const LONGEST_ANSWER: usize = 2048;

/// A schema that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    pub(super) root: Node,
    longest: usize,
}

impl Schema {
    /// Reads a schema from JSON text.
    ///
    /// # Errors
    /// [`ModelError::Schema`] naming what is not accepted and where it stands.
    pub fn from_json(text: &str) -> Result<Self> {
        if text.len() > LARGEST_SCHEMA {
            return Err(large(text.len()));
        }
        let value = serde_json::from_str(text)
            .map_err(|e| ModelError::Schema(format!("it is no JSON: {e}")))?;
        Self::from_value(&value)
    }

    /// Reads a schema.
    ///
    /// # Errors
    /// As [`Schema::from_json`].
    pub fn from_value(value: &Value) -> Result<Self> {
        let bytes = value.to_string().len();
        if bytes > LARGEST_SCHEMA {
            return Err(large(bytes));
        }
        let mut reader = Reader {
            document: value,
            nodes: 0,
            references: Vec::new(),
        };
        let root = reader.node(value, "#", 0)?;
        let longest = root.longest();
        if longest > LONGEST_ANSWER {
            return Err(ModelError::Schema(format!(
                "its longest answer has {longest} bytes; at most {LONGEST_ANSWER} are accepted: maxLength, maxItems or fewer properties make it shorter"
            )));
        }
        Ok(Schema { root, longest })
    }

    /// No answer is longer, in bytes; nor in tokens, for each is one byte at least.
    pub fn longest(&self) -> usize {
        self.longest
    }
}

fn large(bytes: usize) -> ModelError {
    ModelError::Schema(format!(
        "it has {bytes} bytes; at most {LARGEST_SCHEMA} are accepted"
    ))
}

/// Keywords that say nothing about what is valid.
const ANNOTATIONS: [&str; 9] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "examples",
    "default",
];

struct Reader<'a> {
    document: &'a Value,
    nodes: usize,
    /// References that are being followed.
    references: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    fn node(&mut self, schema: &'a Value, at: &str, depth: usize) -> Result<Node> {
        if depth > DEEPEST_SCHEMA {
            return Err(refuse(
                at,
                format!("it goes deeper than {DEEPEST_SCHEMA} schemas"),
            ));
        }
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            return Err(refuse(
                at,
                format!("it holds more than {MOST_NODES} schemas, references followed"),
            ));
        }
        let Value::Object(map) = schema else {
            return Err(refuse(at, "a schema is an object".to_owned()));
        };
        if depth > 0 && map.contains_key("$id") {
            let reason = "\"$id\" is accepted in the outermost schema only";
            return Err(refuse(at, reason.to_owned()));
        }
        if map.contains_key("$ref") {
            return self.reference(map, at, depth);
        }
        if let Some(choices) = map.get("anyOf") {
            only(map, at, &["anyOf"])?;
            let choices = list(choices, at, "anyOf")?;
            let nodes = (0..)
                .zip(choices)
                .map(|(i, choice)| self.node(choice, &format!("{at}/anyOf/{i}"), depth + 1));
            return Ok(Node::Any(nodes.collect::<Result<_>>()?));
        }
        if map.contains_key("enum") || map.contains_key("const") {
            return literals(map, at);
        }
        let types = types(map, at)?;
        let Some(types) = types else {
            let known = first_unknown(map, &[]);
            return Err(match known {
                Some(keyword) if !TYPED.contains(&keyword) => unsupported(at, keyword),
                _ => refuse(
                    at,
                    "\"type\" is missing (or enum, const, anyOf, $ref)".to_owned(),
                ),
            });
        };
        let mut accepted = vec!["type"];
        for kind in &types {
            accepted.extend(keywords(kind));
        }
        only(map, at, &accepted)?;
        let mut nodes = Vec::new();
        for kind in types {
            nodes.push(self.typed(kind, map, at, depth)?);
        }
        Ok(if nodes.len() == 1 {
            nodes.remove(0)
        } else {
            Node::Any(nodes)
        })
    }

    fn reference(&mut self, map: &'a Map<String, Value>, at: &str, depth: usize) -> Result<Node> {
        only(map, at, &["$ref"])?;
        let Some(name) = map.get("$ref").and_then(Value::as_str) else {
            return Err(refuse(at, "\"$ref\" is no text".to_owned()));
        };
        let Some(pointer) = name.strip_prefix('#') else {
            let reason = format!(
                "\"$ref\": \"{}\" is in another document; only references inside the schema (#/...) are followed",
                short(name)
            );
            return Err(refuse(at, reason));
        };
        if self.references.contains(&name) {
            let reason = format!(
                "\"$ref\": \"{}\" leads back to itself, so there is no longest answer",
                short(name)
            );
            return Err(refuse(at, reason));
        }
        let Some(target) = self.document.pointer(pointer) else {
            let reason = format!("\"$ref\": \"{}\" leads nowhere", short(name));
            return Err(refuse(at, reason));
        };
        self.references.push(name);
        let node = self.node(target, name, depth + 1);
        self.references.pop();
        node
    }

    fn typed(
        &mut self,
        kind: &str,
        map: &'a Map<String, Value>,
        at: &str,
        depth: usize,
    ) -> Result<Node> {
        match kind {
            "string" => {
                let min = count(map, at, "minLength")?.unwrap_or(0);
                let max = count(map, at, "maxLength")?.unwrap_or(min.max(DEFAULT_LENGTH));
                ordered(at, "minLength", min, "maxLength", max)?;
                // What is longer than any answer would only make the grammar large.
                let max = max.min(LONGEST_ANSWER + 1);
                ordered(at, "minLength", min, "the longest answer", max)?;
                Ok(Node::Text { min, max })
            }
            "integer" => range(map, at, INTEGERS, 1.0).map(Node::Integer),
            "number" => range(map, at, MICROS, 1e6).map(Node::Number),
            "boolean" => Ok(Node::Literals(vec!["true".to_owned(), "false".to_owned()])),
            "null" => Ok(Node::Literals(vec!["null".to_owned()])),
            "array" => self.array(map, at, depth),
            "object" => self.object(map, at, depth),
            _ => Err(refuse(at, format!("there is no type \"{}\"", short(kind)))),
        }
    }

    fn array(&mut self, map: &'a Map<String, Value>, at: &str, depth: usize) -> Result<Node> {
        let Some(items) = map.get("items") else {
            return Err(refuse(at, "\"items\" is missing".to_owned()));
        };
        let item = self.node(items, &format!("{at}/items"), depth + 1)?;
        let min = count(map, at, "minItems")?.unwrap_or(0);
        let max = count(map, at, "maxItems")?.unwrap_or(min.max(DEFAULT_ITEMS));
        ordered(at, "minItems", min, "maxItems", max)?;
        let max = max.min(LONGEST_ANSWER + 1);
        ordered(at, "minItems", min, "the longest answer", max)?;
        Ok(Node::Array {
            item: Box::new(item),
            min,
            max,
        })
    }

    fn object(&mut self, map: &'a Map<String, Value>, at: &str, depth: usize) -> Result<Node> {
        // An answer holds no other properties than those named, which both values allow.
        if map
            .get("additionalProperties")
            .is_some_and(|v| !v.is_boolean())
        {
            let reason = "\"additionalProperties\" is true or false; a schema is not supported";
            return Err(refuse(at, reason.to_owned()));
        }
        let Some(Value::Object(properties)) = map.get("properties") else {
            return Err(refuse(
                at,
                "\"properties\" is missing or no object".to_owned(),
            ));
        };
        let required = match map.get("required") {
            None => Vec::new(),
            Some(names) => names
                .as_array()
                .and_then(|names| names.iter().map(Value::as_str).collect())
                .ok_or_else(|| refuse(at, "\"required\" is no list of names".to_owned()))?,
        };
        if let Some(name) = required.iter().find(|n| !properties.contains_key(**n)) {
            let reason = format!(
                "\"required\" names \"{}\", which is no property",
                short(name)
            );
            return Err(refuse(at, reason));
        }
        let properties = properties.iter().map(|(key, value)| {
            let at = format!("{at}/properties/{}", short(key));
            Ok(Property {
                key: key.clone(),
                value: self.node(value, &at, depth + 1)?,
                required: required.contains(&key.as_str()),
            })
        });
        Ok(Node::Object(properties.collect::<Result<_>>()?))
    }
}

/// Keywords that belong to a type.
fn keywords(kind: &str) -> &'static [&'static str] {
    match kind {
        "string" => &["minLength", "maxLength"],
        "integer" | "number" => &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
        "array" => &["items", "minItems", "maxItems"],
        "object" => &["properties", "required", "additionalProperties"],
        _ => &[],
    }
}

/// All keywords that belong to a type.
const TYPED: [&str; 12] = [
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "items",
    "minItems",
    "maxItems",
    "properties",
    "required",
    "additionalProperties",
];

fn types<'a>(map: &'a Map<String, Value>, at: &str) -> Result<Option<Vec<&'a str>>> {
    let wrong = || refuse(at, "\"type\" is no name and no list of names".to_owned());
    match map.get("type") {
        None => Ok(None),
        Some(Value::String(kind)) => Ok(Some(vec![kind])),
        Some(Value::Array(kinds)) if (1..=7).contains(&kinds.len()) => {
            let kinds: Option<Vec<&str>> = kinds.iter().map(Value::as_str).collect();
            kinds.map(Some).ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}

/// `enum` or `const`: values that are no lists and no objects.
fn literals(map: &Map<String, Value>, at: &str) -> Result<Node> {
    only(map, at, &["enum", "const", "type"])?;
    let values = match (map.get("enum"), map.get("const")) {
        (Some(_), Some(_)) => {
            return Err(refuse(at, "either enum or const, not both".to_owned()));
        }
        (Some(values), None) => list(values, at, "enum")?.iter().collect(),
        (None, Some(value)) => vec![value],
        (None, None) => Vec::new(),
    };
    if values.len() > MOST_VALUES {
        let reason = format!(
            "\"enum\" has {} values; at most {MOST_VALUES} are accepted",
            values.len()
        );
        return Err(refuse(at, reason));
    }
    let types = types(map, at)?;
    let mut texts: Vec<String> = Vec::new();
    for value in values {
        let text = value.to_string();
        let kinds: &[&str] = match value {
            Value::Null => &["null"],
            Value::Bool(_) => &["boolean"],
            Value::String(_) => &["string"],
            Value::Number(n) if n.is_i64() || n.is_u64() => &["integer", "number"],
            // A number that its shortest text does not give back could not be told from others.
            Value::Number(_)
                if serde_json::from_str::<Value>(&text).ok().as_ref() == Some(value) =>
            {
                &["number"]
            }
            _ => {
                let reason = "enum and const hold texts, numbers, true, false and null only";
                return Err(refuse(at, reason.to_owned()));
            }
        };
        if let Some(types) = &types
            && !types.iter().any(|t| kinds.contains(t))
        {
            let reason = format!("the value {} is not of the type asked for", short(&text));
            return Err(refuse(at, reason));
        }
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    Ok(Node::Literals(texts))
}

/// The bounds of a number, in units of which `scale` make one.
fn range(map: &Map<String, Value>, at: &str, widest: Range, scale: f64) -> Result<Range> {
    let bound = |keyword: &str| match map.get(keyword) {
        None => Ok(None),
        Some(v) => match v.as_f64().filter(|v| v.is_finite()) {
            Some(v) => Ok(Some(v)),
            None => Err(refuse(at, format!("\"{keyword}\" is no number"))),
        },
    };
    // Beyond the widest range of answers a bound bounds nothing.
    let (low, high) = ((widest.low - 1) as f64, (widest.high + 1) as f64);
    let near = |v: f64| (v * scale).clamp(low, high);
    let value = |units: i64| units as f64 / scale;
    let mut range = widest;
    for (keyword, exclusive) in [("minimum", false), ("exclusiveMinimum", true)] {
        if let Some(v) = bound(keyword)? {
            let mut units = near(v).floor() as i64 - 1;
            while units <= widest.high && (value(units) < v || exclusive && value(units) == v) {
                units += 1;
            }
            range.low = range.low.max(units);
        }
    }
    for (keyword, exclusive) in [("maximum", false), ("exclusiveMaximum", true)] {
        if let Some(v) = bound(keyword)? {
            let mut units = near(v).ceil() as i64 + 1;
            while units >= widest.low && (value(units) > v || exclusive && value(units) == v) {
                units -= 1;
            }
            range.high = range.high.min(units);
        }
    }
    if range.low > range.high {
        let reason = "no number of an answer lies within its bounds";
        return Err(refuse(at, reason.to_owned()));
    }
    Ok(range)
}

fn count(map: &Map<String, Value>, at: &str, keyword: &str) -> Result<Option<usize>> {
    match map.get(keyword) {
        None => Ok(None),
        Some(v) => match v.as_u64() {
            Some(n) => Ok(Some(usize::try_from(n).unwrap_or(usize::MAX))),
            None => Err(refuse(
                at,
                format!("\"{keyword}\" is no whole number from 0"),
            )),
        },
    }
}

fn ordered(at: &str, low: &str, min: usize, high: &str, max: usize) -> Result<()> {
    if min > max {
        let reason = format!("{low} is {min}, {high} is {max}: nothing lies between");
        return Err(refuse(at, reason));
    }
    Ok(())
}

fn list<'a>(value: &'a Value, at: &str, keyword: &str) -> Result<&'a [Value]> {
    match value.as_array() {
        Some(list) if !list.is_empty() => Ok(list),
        _ => Err(refuse(
            at,
            format!("\"{keyword}\" is no list, or an empty one"),
        )),
    }
}

/// Refuses every keyword that is not accepted here.
fn only(map: &Map<String, Value>, at: &str, accepted: &[&str]) -> Result<()> {
    match first_unknown(map, accepted) {
        None => Ok(()),
        Some(keyword) if TYPED.contains(&keyword) || keyword == "type" => Err(refuse(
            at,
            format!("\"{keyword}\" does not belong to the rest of this schema"),
        )),
        Some(keyword) => Err(unsupported(at, keyword)),
    }
}

fn first_unknown<'a>(map: &'a Map<String, Value>, accepted: &[&str]) -> Option<&'a str> {
    map.keys()
        .map(String::as_str)
        .find(|k| !ANNOTATIONS.contains(k) && !accepted.contains(k))
}

fn unsupported(at: &str, keyword: &str) -> ModelError {
    refuse(
        at,
        format!("the keyword \"{}\" is not supported here", short(keyword)),
    )
}

fn refuse(at: &str, reason: String) -> ModelError {
    ModelError::Schema(format!("{}: {reason}", short(at)))
}

/// The beginning of a text from outside, for an error of one line.
fn short(text: &str) -> String {
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        format!("{shown}...")
    } else {
        shown
    }
}
