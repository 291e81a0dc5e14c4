//! YAML text -> a tree in which every key and value knows its place.
//!
//! Scalars stay text: what a text means is decided by the key that it stands under. Duplicate keys are
//! kept, so that the reader can name both places. Read first: <https://yaml.org/spec/1.2.2/> section 3.2.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::error::{Pos, Problem};

/// A deeper nesting than any configuration has; bounds the recursion of everything that walks a tree.
const MAX_DEPTH: usize = 16;
/// Nodes that aliases may add, so that a few lines of nested aliases cannot fill the memory.
const MAX_ALIASED: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub pos: Pos,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// No value at all, `~` or `null`.
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub pos: Pos,
    pub text: String,
}

impl Value {
    /// What a person calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// The tree of the one document in `text`; an empty text is [`Value::Null`].
pub(super) fn load(text: &str) -> Result<Node, Problem> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| syntax(&e))?;
        builder.take(event, span)?;
    }
    Ok(builder.root.unwrap_or(Node { pos: Pos { line: 1, column: 1 }, value: Value::Null }))
}

fn syntax(error: &ScanError) -> Problem {
    Problem {
        pos: pos(error.marker()),
        wrong: format!("this is not YAML: {}", error.info()),
        right: "look for wrong indentation (spaces, never tabs), a missing colon or an unclosed quote here \
                or just above"
            .to_owned(),
    }
}

fn pos(marker: &Marker) -> Pos {
    Pos { line: marker.line().max(1), column: marker.col() + 1 }
}

/// A list or mapping that is not closed yet.
enum Open {
    List { pos: Pos, anchor: usize, items: Vec<Node> },
    Map { pos: Pos, anchor: usize, entries: Vec<(Key, Node)>, key: Option<Key> },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    /// By anchor number (0: no anchor): the node and how many nodes it has.
    anchors: HashMap<usize, (Node, usize)>,
    aliased: usize,
    documents: usize,
    root: Option<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let at = pos(&span.start);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return fail(at, "a second YAML document begins here", "keep one document in the file");
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(at, tag.is_none_or(|t| t.is_yaml_core_schema()))?;
                let null =
                    style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar(text.into_owned()) };
                self.close(Node { pos: at, value }, anchor)?;
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(at, tag.is_none_or(|t| t.is_yaml_core_schema()))?;
                self.push(at, Open::List { pos: at, anchor, items: Vec::new() })?;
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(at, tag.is_none_or(|t| t.is_yaml_core_schema()))?;
                self.push(at, Open::Map { pos: at, anchor, entries: Vec::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { pos, anchor, items }) => {
                    self.close(Node { pos, value: Value::List(items) }, anchor)?;
                }
                Some(Open::Map { pos, anchor, entries, .. }) => {
                    self.close(Node { pos, value: Value::Map(entries) }, anchor)?;
                }
                None => {}
            },
            Event::Alias(anchor) => self.alias(at, anchor)?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn push(&mut self, at: Pos, open: Open) -> Result<(), Problem> {
        if self.open.len() == MAX_DEPTH {
            return fail(at, "lists and mappings are nested too deeply", "see docs/config.md for the shape");
        }
        if let Some(Open::Map { key: None, .. }) = self.open.last() {
            return fail(at, "a key must be a single word", "write `key: value`");
        }
        self.open.push(open);
        Ok(())
    }

    /// Hands a finished node to the list or mapping around it.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), count(&node)));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => match key.take() {
                Some(key) => {
                    // Where there is nothing, point to what it is missing from.
                    let pos = if node.value == Value::Null { key.pos } else { node.pos };
                    entries.push((key, Node { pos, ..node }));
                }
                None => match node.value {
                    Value::Scalar(text) => *key = Some(Key { pos: node.pos, text }),
                    _ => return fail(node.pos, "a key must be a single word", "write `key: value`"),
                },
            },
        }
        Ok(())
    }

    fn alias(&mut self, at: Pos, anchor: usize) -> Result<(), Problem> {
        let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
            return fail(at, "this alias stands inside of its own anchor", "move it out of there");
        };
        self.aliased += size;
        if self.aliased > MAX_ALIASED {
            return fail(at, "aliases make this file enormous", "write the values out");
        }
        if self.open.len() + depth(&node) > MAX_DEPTH {
            return fail(at, "lists and mappings are nested too deeply", "see docs/config.md for the shape");
        }
        self.close(node, 0)
    }
}

fn fail<T>(pos: Pos, wrong: &str, right: &str) -> Result<T, Problem> {
    Err(Problem { pos, wrong: wrong.to_owned(), right: right.to_owned() })
}

fn check_tag(at: Pos, core: bool) -> Result<(), Problem> {
    if core { Ok(()) } else { fail(at, "tags (`!name`) mean nothing here", "leave the tag out") }
}

fn children(node: &Node) -> Vec<&Node> {
    match &node.value {
        Value::Null | Value::Scalar(_) => Vec::new(),
        Value::List(items) => items.iter().collect(),
        Value::Map(entries) => entries.iter().map(|(_, node)| node).collect(),
    }
}

fn count(node: &Node) -> usize {
    1 + children(node).into_iter().map(count).sum::<usize>()
}

fn depth(node: &Node) -> usize {
    match node.value {
        Value::Null | Value::Scalar(_) => 0,
        _ => 1 + children(node).into_iter().map(depth).max().unwrap_or(0),
    }
}
