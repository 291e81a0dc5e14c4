//! The rules.

use crate::tidy::Finding;
use crate::tidy::source::Source;

/// Lines of code that a file may have, its tests not counted.
const LONGEST: usize = 500;

/// What reaches the outside. `fs` and `net` stand for std's and tokio's modules of that name;
/// addresses (`std::net::IpAddr`) are values, so `net` itself is allowed and its sockets are not.
const IMPURE: &[&str] = &[
    "aya",
    "axum",
    "fs",
    "hyper",
    "libc",
    "rtnetlink",
    "tokio",
    "Instant",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixDatagram",
    "UnixListener",
    "UnixStream",
];

/// A file of at most [`LONGEST`] lines, tests excepted.
pub fn length(source: &Source) -> Vec<Finding> {
    let lines = source.lines.iter().filter(|line| !line.is_test).count();
    if lines <= LONGEST {
        return Vec::new();
    }
    let what = format!("{lines} lines without tests, at most {LONGEST}");
    vec![Finding { line: 0, what, why: "a file has to be held in the head: split it by meaning" }]
}

/// Nothing pretends to be done: no `todo!`, `unimplemented!`, `#[ignore]`.
pub fn unfinished(source: &Source) -> Vec<Finding> {
    let macros =
        ["todo", "unimplemented"].into_iter().flat_map(|name| containing(source, &format!("{name}!")));
    let ignored = containing(source, "#[ignore");
    let findings = macros.chain(ignored).map(|(line, what)| Finding {
        line,
        what,
        why: "finish it or leave it out; a test that is not run is no test",
    });
    findings.collect()
}

/// A lint exception is an expectation: it says why, and goes when it is not needed any more.
pub fn lint_exceptions(source: &Source) -> Vec<Finding> {
    let allows = containing(source, "#[allow(").into_iter().chain(containing(source, "#![allow("));
    let why = "write #[expect(.., reason = \"..\")]: it complains when it is not needed any more";
    allows.map(|(line, what)| Finding { line, what, why }).collect()
}

/// Files are called by what they mean.
pub fn file_name(name: &str) -> Vec<Finding> {
    let stem = name.rsplit('/').next().unwrap_or(name);
    if !["utils.rs", "util.rs", "helpers.rs", "misc.rs", "common.rs"].contains(&stem) {
        return Vec::new();
    }
    let what = format!("a file called {stem}");
    vec![Finding {
        line: 0,
        what,
        why: "such a name says nothing and collects everything: name it by its meaning",
    }]
}

/// No `unsafe` outside the listed files.
pub fn no_unsafe(source: &Source) -> Vec<Finding> {
    let why = "`unsafe` stands in few files, listed with their reason in xtask/src/tidy/lists.rs: \
               move the code there, or add the file and the reason";
    source.find(&["unsafe"]).map(|(line, ..)| Finding { line, what: "`unsafe`".to_owned(), why }).collect()
}

/// No IO and no clock in the PURE ring. Its tests may read fixtures.
pub fn pure(source: &Source) -> Vec<Finding> {
    let why = "this module is of the PURE ring: decisions without IO, tested without a kernel; \
               do the IO in the caller, or list the file in xtask/src/tidy/lists.rs";
    let hits = source.find(IMPURE).filter(|(_, line, _)| !line.is_test);
    hits.map(|(line, _, word)| Finding { line, what: format!("`{word}`"), why }).collect()
}

/// ARCHITECTURE.md's code map has every top-level directory.
pub fn code_map(text: &str, directories: &[String]) -> Vec<Finding> {
    let why = "the code map has to be whole, or a newcomer does not trust it: say what the directory is for";
    let is_named = |directory: &&String| {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && !"-_.".contains(c));
        !words.any(|word| word == directory.as_str())
    };
    let missing = directories.iter().filter(is_named);
    missing.map(|it| Finding { line: 0, what: format!("no word about the directory {it}/"), why }).collect()
}

fn containing(source: &Source, text: &str) -> Vec<(usize, String)> {
    let lines = source.lines.iter().enumerate();
    let is_whole_word = |code: &str| {
        code.match_indices(text)
            .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    lines.filter(|(_, line)| is_whole_word(&line.code)).map(|(at, _)| (at + 1, format!("`{text}`"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(findings: &[Finding]) -> Vec<usize> {
        findings.iter().map(|finding| finding.line).collect()
    }

    fn code(text: &str) -> Source {
        Source::parse(text, false)
    }

    #[test]
    fn length_counts_code_only() {
        let long = "fn f() {}\n".repeat(LONGEST);
        assert!(length(&code(&long)).is_empty());
        assert_eq!(length(&code(&format!("{long}fn g() {{}}\n"))).len(), 1);
        let tests = format!("{long}#[cfg(test)]\nmod tests {{\n{}}}\n", "fn g() {}\n".repeat(100));
        assert!(length(&code(&tests)).is_empty());
        assert!(length(&Source::parse(&long.repeat(2), true)).is_empty());
    }

    #[test]
    fn unfinished_code_is_found() {
        let text = "fn a() { todo!() }\n// todo!()\nlet s = \"unimplemented!\";\nunimplemented!(\"b\")\n#[ignore]\nfn t() {}\nmytodo!()";
        let mut found = lines(&unfinished(&code(text)));
        found.sort_unstable();
        assert_eq!(found, [1, 4, 5]);
        assert_eq!(lines(&unfinished(&code("#[ignore = \"slow\"]"))), [1]);
    }

    #[test]
    fn lints_are_expected_not_allowed() {
        let text = "#![allow(dead_code)]\n#[expect(dead_code, reason = \"x\")]\n#[allow(unused)]";
        let mut found = lines(&lint_exceptions(&code(text)));
        found.sort_unstable();
        assert_eq!(found, [1, 3]);
    }

    #[test]
    fn unsafe_is_found_in_code_only() {
        let text = "// unsafe\n#![forbid(unsafe_code)]\nunsafe fn f() {}\nlet x = \"unsafe\";";
        assert_eq!(lines(&no_unsafe(&code(text))), [3]);
    }

    #[test]
    fn pure_modules_name_no_io() {
        let text = "use std::net::IpAddr;\nuse std::{fs, io};\nuse tokio::time;\n//! aya\nfn f(now: Nanos) {}\n#[cfg(test)]\nmod tests {\n use std::fs;\n}";
        assert_eq!(lines(&pure(&code(text))), [2, 3]);
        assert_eq!(lines(&pure(&code("use std::net::TcpStream;"))), [1]);
    }

    #[test]
    fn files_have_meaningful_names() {
        assert_eq!(file_name("lb-userspace/src/utils.rs").len(), 1);
        assert!(file_name("lb-userspace/src/flow.rs").is_empty());
    }

    #[test]
    fn the_code_map_is_whole() {
        let directories = ["lb-ebpf", "tests", "xtask"].map(str::to_owned);
        let text = "`lb-ebpf/` the program\n`tests/src/netns.rs` ...";
        let found = code_map(text, &directories);
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("xtask/"));
        assert_eq!(code_map("lb-ebpf-old tests xtask", &directories).len(), 1);
    }
}
