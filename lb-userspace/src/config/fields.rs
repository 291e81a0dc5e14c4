//! Reads one mapping of the tree against its table in [`super::schema`].

use super::{
    error::{Pos, Problems},
    schema::{Key, Section},
    tree::{Node, Value},
    values::Fault,
};
use crate::model::nearest::nearest;

/// The known keys of one mapping, with their values.
pub(super) struct Fields<'a> {
    section: &'static Section,
    /// Where the mapping begins: the place of what is missing.
    pub pos: Pos,
    found: Vec<(&'static Key, &'a Node)>,
    /// All keys were known.
    pub is_whole: bool,
}

impl<'a> Fields<'a> {
    /// Takes `node` apart. Anything that is no mapping, unknown keys and duplicate keys become problems;
    /// `None` only where there is no mapping to read.
    pub(super) fn of(node: &'a Node, section: &'static Section, problems: &mut Problems) -> Option<Self> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            other => {
                let wrong = format!("{} must be a mapping, not {}", section.title(), other.kind());
                problems.add(node.pos, wrong, format!("write keys below it: {}", key_list(section)));
                return None;
            }
        };
        let mut found: Vec<(&'static Key, &'a Node)> = Vec::new();
        let mut places: Vec<Pos> = Vec::new();
        let mut is_whole = true;
        for (key, value) in entries {
            let Some(known) = section.key(&key.text) else {
                is_whole = false;
                problems.add(key.pos, format!("unknown key `{}` in {}", key.text, section.title()), {
                    unknown_key_help(section, &key.text)
                });
                continue;
            };
            if let Some(first) = found.iter().position(|(k, _)| std::ptr::eq(*k, known)) {
                let word = if key.text == known.name {
                    format!("key `{}` is", known.name)
                } else {
                    format!("key `{}` (another word for `{}`) is", key.text, known.name)
                };
                let wrong = format!("{word} given twice, first on line {}", places[first].line);
                problems.add(key.pos, wrong, "keep one of them");
                continue;
            }
            found.push((known, value));
            places.push(key.pos);
        }
        Some(Self { section, pos: node.pos, found, is_whole })
    }

    /// The value of `key`, whatever it is.
    pub(super) fn node(&self, key: &'static Key) -> Option<&'a Node> {
        debug_assert!(
            self.section.keys.iter().any(|k| std::ptr::eq(*k, key)),
            "{} is not in the table",
            key.name
        );
        self.found.iter().find(|(k, _)| std::ptr::eq(*k, key)).map(|(_, node)| *node)
    }

    /// As [`Self::node`]; its absence is a problem.
    pub(super) fn required_node(&self, key: &'static Key, problems: &mut Problems) -> Option<&'a Node> {
        let node = self.node(key);
        if node.is_none() {
            let wrong = format!("{} has no `{}`", self.section.title(), key.name);
            problems.add(self.pos, wrong, format!("add `{}: ...` ({})", key.name, key.takes));
        }
        node
    }

    /// Reads the single value of `key` with `read`; `None` if it is absent or wrong.
    pub(super) fn value<T>(
        &self,
        key: &'static Key,
        problems: &mut Problems,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        scalar(self.node(key)?, key, problems, read)
    }

    /// As [`Self::value`]; absence is a problem.
    pub(super) fn required<T>(
        &self,
        key: &'static Key,
        problems: &mut Problems,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        scalar(self.required_node(key, problems)?, key, problems, read)
    }

    /// The elements of the list under `key`; empty if it is absent, empty or no list.
    pub(super) fn list(&self, key: &'static Key, problems: &mut Problems) -> &'a [Node] {
        match self.node(key).map(|node| (node.pos, &node.value)) {
            None | Some((_, Value::Null)) => &[],
            Some((_, Value::List(items))) => items,
            Some((pos, other)) => {
                let wrong = format!("`{}` must be a list, not {}", key.name, other.kind());
                problems.add(pos, wrong, "begin each element with `- `");
                &[]
            }
        }
    }
}

/// Reads `node` as a single value of `key`.
pub(super) fn scalar<T>(
    node: &Node,
    key: &Key,
    problems: &mut Problems,
    read: impl FnOnce(&str) -> Result<T, Fault>,
) -> Option<T> {
    let Value::Scalar(text) = &node.value else {
        let wrong = format!("`{}` must be a single value, not {}", key.name, node.value.kind());
        problems.add(node.pos, wrong, format!("write {}", key.takes));
        return None;
    };
    match read(text) {
        Ok(value) => Some(value),
        Err(Fault { wrong, right }) => {
            problems.add(node.pos, format!("`{}`: {wrong}", key.name), right);
            None
        }
    }
}

fn unknown_key_help(section: &Section, word: &str) -> String {
    let words = section.keys.iter().flat_map(|k| std::iter::once(&k.name).chain(k.also)).copied();
    match nearest(word, words).and_then(|near| section.key(near)) {
        Some(key) => format!("did you mean `{}`?", key.name),
        None => format!("valid keys are {}", key_list(section)),
    }
}

fn key_list(section: &Section) -> String {
    section.keys.iter().map(|k| k.name).collect::<Vec<_>>().join(", ")
}
