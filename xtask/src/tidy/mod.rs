//! `cargo xtask tidy`: house rules that no compiler checks. A rule is a function from text to
//! findings (`rules.rs`), what it applies to is a table (`lists.rs`); each finding says why.

mod documents;
mod lists;
mod rules;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::repo;
use source::Source;

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// Counted from 1; 0 is the file as a whole.
    line: usize,
    what: String,
    /// Why the rule is there and what to do instead.
    why: &'static str,
}

pub fn main() -> Result<()> {
    let files = files_with("rs", repo::root())?;
    let mut found = 0;
    for file in &files {
        let name = file.strip_prefix(repo::root()).unwrap_or(file).to_string_lossy();
        found += report(&name, check(&name, &repo::read(file)?));
    }
    let documents = files_with("md", repo::root())?;
    let directories = top_level_directories()?;
    for file in &documents {
        let name = file.strip_prefix(repo::root()).unwrap_or(file).to_string_lossy();
        found += report(&name, check_document(&name, &repo::read(file)?, &directories));
    }
    let files = files.len() + documents.len();
    if found > 0 {
        bail!("tidy: {found} findings in {files} files");
    }
    println!("tidy: {files} files, no finding");
    Ok(())
}

fn report(file: &str, findings: Vec<Finding>) -> usize {
    for Finding { line, what, why } in &findings {
        println!("{file}:{line}: {what}\n    {why}");
    }
    findings.len()
}

/// Every rule for Rust sources. `name` is the path from the root.
fn check(name: &str, text: &str) -> Vec<Finding> {
    let source = Source::parse(text, lists::is_test_file(name));
    let mut findings = rules::length(&source);
    findings.extend(rules::unfinished(&source));
    findings.extend(rules::lint_exceptions(&source));
    findings.extend(rules::file_name(name));
    if !lists::may_be_unsafe(name) {
        findings.extend(rules::no_unsafe(&source));
    }
    if lists::is_pure(name) {
        findings.extend(rules::pure(&source));
    }
    findings
}

/// Every rule for documents.
fn check_document(name: &str, text: &str, directories: &[String]) -> Vec<Finding> {
    let mut findings = documents::verbs(text, &crate::command_line());
    findings.extend(documents::paths(text, directories, |path| repo::root().join(path).exists()));
    if name == "ARCHITECTURE.md" {
        findings.extend(rules::code_map(text, directories));
    }
    findings
}

fn files_with(extension: &str, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in entries(dir)? {
        if path.is_dir() {
            files.extend(files_with(extension, &path)?);
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    Ok(files)
}

fn top_level_directories() -> Result<Vec<String>> {
    let directories = entries(repo::root())?.into_iter().filter(|path| path.is_dir());
    Ok(directories.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
}

/// What stands in a directory, sorted, without hidden and built things.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", dir.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).with_context(context)? {
        let entry = entry.with_context(context)?;
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with('.') && name != "target" {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_apply_by_path() {
        let text = "fn f() { unsafe { std::fs::read(\"x\") } }\n";
        let lines = |name: &str| check(name, text).iter().map(|it| it.what.clone()).collect::<Vec<_>>();
        assert_eq!(lines("lb-ebpf/src/flow.rs"), Vec::<String>::new());
        assert_eq!(lines("lb-userspace/src/agent.rs"), ["`unsafe`"]);
        assert_eq!(lines("lb-userspace/src/model/mod.rs"), ["`unsafe`", "`fs`"]);
    }
}
