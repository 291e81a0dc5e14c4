//! The rules for Markdown: what a document names has to be there.

use clap::Command;

use crate::tidy::Finding;

/// Every `cargo xtask VERB` is a verb of `cli`, and the word behind it one of its verbs if it has any.
pub fn verbs(text: &str, cli: &Command) -> Vec<Finding> {
    let why = "a reader types what a document says: name a verb that `cargo xtask` lists";
    let lines = text.lines().enumerate();
    let unknown = lines.flat_map(|(at, line)| {
        let calls = line.split("cargo xtask").skip(1);
        calls.filter_map(move |rest| unknown_verb(rest, cli)).map(move |verb| (at + 1, verb))
    });
    unknown.map(|(line, verb)| Finding { line, what: format!("no verb `cargo xtask {verb}`"), why }).collect()
}

/// The first word of a call that is no verb where a verb has to stand.
fn unknown_verb(rest: &str, cli: &Command) -> Option<String> {
    let mut command = cli;
    let mut path = Vec::new();
    for word in rest.split(' ').skip(1) {
        // The call ends at a quote or a full stop; a placeholder, an option or a remark is no verb.
        let verb: String = word.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        if verb.is_empty() || verb.starts_with('-') || !command.has_subcommands() {
            return None;
        }
        path.push(verb.clone());
        match command.find_subcommand(&verb) {
            Some(found) => command = found,
            None => return Some(path.join(" ")),
        }
        if verb.len() < word.len() {
            return None;
        }
    }
    None
}

/// Every path from the root, that is every word that begins with one of its `directories`, exists.
pub fn paths(text: &str, directories: &[String], exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let why = "a reader opens what a document names: correct the path, or say what is there now";
    let is_path = |c: char| c.is_ascii_alphanumeric() || "-_./@".contains(c);
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words = line.split(|c| !is_path(c)).map(|word| word.trim_end_matches('.'));
        let from_root = words.filter(|word| {
            word.split_once('/').is_some_and(|(first, _)| directories.iter().any(|it| it == first))
        });
        let missing = from_root.filter(|path| !exists(path));
        findings.extend(missing.map(|path| Finding { line: at + 1, what: format!("no {path}"), why }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli() -> Command {
        let lab = Command::new("lab").subcommand(Command::new("up"));
        Command::new("xtask").subcommand(Command::new("demo")).subcommand(lab)
    }

    fn found(findings: &[Finding]) -> Vec<(usize, &str)> {
        findings.iter().map(|it| (it.line, it.what.as_str())).collect()
    }

    #[test]
    fn only_real_verbs_may_be_named() {
        let good = "`cargo xtask`, `cargo xtask demo`: cargo xtask VERB\n\
                    cargo xtask demo --keep   # cargo xtask [VERB]\n\
                    cargo xtask lab up, or `cargo xtask lab`; cargo xtask demo.\n";
        assert!(verbs(good, &cli()).is_empty(), "{:?}", verbs(good, &cli()));
        let bad = "cargo xtask demo\n`cargo xtask dmo` and cargo xtask lab sideways";
        let expected = [(2, "no verb `cargo xtask dmo`"), (2, "no verb `cargo xtask lab sideways`")];
        assert_eq!(found(&verbs(bad, &cli())), expected);
    }

    #[test]
    fn only_real_paths_may_be_named() {
        let directories = ["lb-ebpf", "tests"].map(str::to_owned);
        let there = |path: &str| ["lb-ebpf/src", "lb-ebpf/src/", "tests/src/netns.rs"].contains(&path);
        let good = "`lb-ebpf/src/` and tests/src/netns.rs. Not ours: src/lb-ebpf/x, and/or, lb-ebpf";
        assert!(paths(good, &directories, there).is_empty());
        let bad = "see\n`lb-ebpf/src/gone.rs:12`";
        assert_eq!(found(&paths(bad, &directories, there)), [(2, "no lb-ebpf/src/gone.rs")]);
    }
}
