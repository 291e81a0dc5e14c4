//! A Rust file as the rules see it: lines of code without comments and literals, test modules marked.

/// A Rust source file, read just well enough for word searches.
pub struct Source {
    pub lines: Vec<Line>,
}

pub struct Line {
    /// The code; comments, strings and characters are blank.
    pub code: String,
    /// In a `#[cfg(test)]` item, or in a file of tests.
    pub is_test: bool,
}

impl Source {
    pub fn parse(text: &str, is_test_file: bool) -> Self {
        let code = blank_comments_and_literals(text);
        let mut lines: Vec<_> =
            code.lines().map(|code| Line { code: code.to_owned(), is_test: is_test_file }).collect();
        mark_test_items(&mut lines);
        Self { lines }
    }

    /// Lines (counted from 1) that contain one of `words` as a whole identifier, with the word.
    pub fn find<'a>(&'a self, words: &'a [&'a str]) -> impl Iterator<Item = (usize, &'a Line, &'a str)> {
        self.lines.iter().enumerate().flat_map(move |(index, line)| {
            let hits = words.iter().filter(|word| identifiers(&line.code).any(|it| it == **word));
            hits.map(move |word| (index + 1, line, *word))
        })
    }
}

fn identifiers(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Marks each item under `#[cfg(test)]`: until its braces are closed again, or its semicolon.
fn mark_test_items(lines: &mut [Line]) {
    let mut depth = None;
    for line in lines {
        let mut code = line.code.as_str();
        if depth.is_none()
            && let Some(start) = code.find("#[cfg(test)]")
        {
            depth = Some(0_i32);
            code = &code[start + "#[cfg(test)]".len()..];
        }
        let Some(mut open) = depth else { continue };
        line.is_test = true;
        let mut ended = false;
        for c in code.chars() {
            open += match c {
                '{' | '(' | '[' => 1,
                '}' | ')' | ']' => -1,
                _ => 0,
            };
            ended |= open == 0 && matches!(c, '}' | ';');
        }
        depth = (!ended).then_some(open);
    }
}

/// Replaces comments, strings and characters by blanks; line ends stay where they are.
fn blank_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut after_word = false;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !after_word) {
            length
        } else if c == '"' {
            quoted(rest, '"')
        } else if c == '\'' {
            character(rest).unwrap_or(0)
        } else {
            0
        };
        let is_code = length == 0;
        let (part, tail) = rest.split_at(if is_code { c.len_utf8() } else { length });
        if is_code {
            out.push(c);
        } else {
            out.extend(part.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        after_word = is_code && (c.is_alphanumeric() || c == '_');
        rest = tail;
    }
    out
}

/// Length of the (nested) block comment at the start.
fn block_comment(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        let step = match bytes.get(at..at + 2) {
            Some(b"/*") => 1,
            Some(b"*/") => -1,
            _ => 0,
        };
        depth += step;
        at += if step == 0 { 1 } else { 2 };
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of the raw string (r"..", r#".."#, br".., cr"..) at the start, if one starts there.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
    })?;
    let rest = &text[prefix.len()..];
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let end = format!("\"{}", "#".repeat(hashes));
    let start = prefix.len() + hashes + 1;
    Some(text[start..].find(&end).map_or(text.len(), |at| start + at + end.len()))
}

/// Length of the quoted literal at the start, escapes heeded.
fn quoted(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Length of the character literal at the start; None for a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.chars().skip(1);
    let first = chars.next()?;
    (first == '\\' || chars.next() == Some('\'')).then(|| quoted(text, '\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        blank_comments_and_literals(text).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_literals_are_blank() {
        assert_eq!(code("a // unsafe\nb"), "a b");
        assert_eq!(code("a /* x /* unsafe */ y */ b"), "a b");
        assert_eq!(code(r#"f("un\"safe", b"x")"#), "f( , b )");
        assert_eq!(code(r###"f(r#"a "quoted" unsafe"#, br"\")"###), "f( , )");
        assert_eq!(code("f('\"', '\\'', 'x') // c"), "f( , , )");
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
        // `for"..."` does not occur; a word that ends in r is no raw string.
        assert_eq!(code(r#"xr"a\"b" c"#), "xr c");
    }

    #[test]
    fn line_numbers_stay() {
        let source = Source::parse("/* a\nb */ unsafe\n\"x\ny\" unsafe", false);
        let lines: Vec<_> = source.find(&["unsafe"]).map(|(line, ..)| line).collect();
        assert_eq!(lines, [2, 4]);
    }

    #[test]
    fn words_are_whole_identifiers() {
        let source = Source::parse("use tokio_like; use tokio::net;\nlet aya2 = 1;", false);
        let hits: Vec<_> = source.find(&["tokio", "aya"]).map(|(line, _, word)| (line, word)).collect();
        assert_eq!(hits, [(1, "tokio")]);
    }

    #[test]
    fn test_items_are_marked() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}\n";
        let source = Source::parse(text, false);
        let marked: Vec<_> = source.lines.iter().map(|line| line.is_test).collect();
        assert_eq!(marked, [false, true, true, true, true, true, false, true, true, false]);
    }
}
