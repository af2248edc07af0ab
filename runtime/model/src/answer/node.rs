//! What a schema allows, in the few kinds that answers are made of, and its grammar.

use std::fmt::Write;

use super::range::Range;

/// What may stand at one place of an answer. Answers are written without white space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// One of these JSON texts.
    Literals(Vec<String>),
    /// A text of so many characters.
    Text { min: usize, max: usize },
    /// A whole number.
    Integer(Range),
    /// A number with at most six digits after the point; the range is in millionths.
    Number(Range),
    /// So many of one kind.
    Array {
        item: Box<Node>,
        min: usize,
        max: usize,
    },
    /// These properties in this order.
    Object(Vec<Property>),
    /// One of these.
    Any(Vec<Node>),
}

/// A property of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Property {
    pub(super) key: String,
    pub(super) value: Node,
    pub(super) required: bool,
}

impl Property {
    /// The key as it stands in an answer.
    fn begin(&self) -> String {
        format!("{}:", quoted(&self.key))
    }
}

impl Node {
    /// No answer is longer, in bytes.
    pub(super) fn longest(&self) -> usize {
        match self {
            Node::Literals(texts) => texts.iter().map(String::len).max().unwrap_or(0),
            // A character has at most four bytes, also when it is escaped.
            Node::Text { max, .. } => max.saturating_mul(4).saturating_add(2),
            Node::Integer(range) => range.longest(),
            // The point and the millionths stand beside the whole.
            Node::Number(range) => range.longest().max(8) + 2,
            Node::Array { item, max, .. } => item
                .longest()
                .saturating_add(1)
                .saturating_mul(*max)
                .saturating_add(2),
            Node::Object(properties) => properties.iter().fold(2, |sum: usize, p| {
                sum.saturating_add(p.begin().len() + 1)
                    .saturating_add(p.value.longest())
            }),
            Node::Any(nodes) => nodes.iter().map(Node::longest).max().unwrap_or(0),
        }
    }

    /// The grammar of an answer, in llguidance's variant of Lark.
    pub(super) fn grammar(&self) -> String {
        let mut grammar = Grammar::default();
        let root = grammar.rule(self);
        format!("start: {root}\n{}", grammar.rules)
    }
}

#[derive(Default)]
struct Grammar {
    rules: String,
    count: usize,
}

impl Grammar {
    /// Adds what a node allows as a rule and gives its name.
    fn rule(&mut self, node: &Node) -> String {
        let body = match node {
            Node::Literals(texts) => texts
                .iter()
                .map(|t| quoted(t))
                .collect::<Vec<_>>()
                .join(" | "),
            // JSON text without the escapes that only write a character in another way.
            Node::Text { min, max } => {
                format!(r#"/"([^"\\\x00-\x1F\x7F]|\\["\\bfnrt]){{{min},{max}}}"/"#)
            }
            Node::Integer(range) => format!("/{}/", range.integers()),
            Node::Number(range) => format!("/{}/", range.decimals()),
            Node::Array { item, min, max } => self.array(item, *min, *max),
            Node::Object(properties) => self.object(properties),
            Node::Any(nodes) => {
                let names: Vec<_> = nodes.iter().map(|n| self.rule(n)).collect();
                names.join(" | ")
            }
        };
        self.add(&body)
    }

    fn add(&mut self, body: &str) -> String {
        let name = format!("n{}", self.count);
        self.count += 1;
        // Writing to a String cannot fail.
        let _ = writeln!(self.rules, "{name}: {body}");
        name
    }

    fn array(&mut self, item: &Node, min: usize, max: usize) -> String {
        if max == 0 {
            return r#""[]""#.to_owned();
        }
        let item = self.rule(item);
        let (least, most) = (min.saturating_sub(1), max - 1);
        let full = match most {
            0 => format!(r#""[" {item} "]""#),
            _ => format!(r#""[" {item} ("," {item}){{{least},{most}}} "]""#),
        };
        match min {
            0 => format!(r#""[]" | {full}"#),
            _ => full,
        }
    }

    /// From the last property to the first: what may follow once a property has been written, and
    /// what may follow while none has.
    fn object(&mut self, properties: &[Property]) -> String {
        let end = self.add(r#""}""#);
        let (mut later, mut first) = (end.clone(), end);
        for property in properties.iter().rev() {
            let value = self.rule(&property.value);
            let key = property.begin();
            let mut begun = format!("{} {value} {later}", quoted(&format!(",{key}")));
            let mut fresh = format!("{} {value} {later}", quoted(&key));
            if !property.required {
                begun = format!("{begun} | {later}");
                fresh = format!("{fresh} | {first}");
            }
            (later, first) = (self.add(&begun), self.add(&fresh));
        }
        format!(r#""{{" {first}"#)
    }
}

/// A text in quotes, as JSON and the grammar write it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
