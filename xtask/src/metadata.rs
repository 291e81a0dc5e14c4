//! What cargo knows about the workspace: which targets a package has, where a test binary was built.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cmd::Cmd;

/// The integration tests of a package that `cargo test` runs without being told to, by name.
#[cfg(test)]
pub fn test_targets(package: &str) -> Result<Vec<String>> {
    let metadata = read()?;
    let tests =
        targets(&metadata, package).filter(|target| is_of_kind(target, "test") && target["test"] == true);
    let mut names: Vec<_> = tests.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}

/// Fails, in words, if the package has no such target. `kind` is cargo's: `bin`, `test`.
pub fn require_target(package: &str, kind: &str, name: &str) -> Result<()> {
    if has_target(&read()?, package, kind, name) {
        return Ok(());
    }
    bail!("package {package} has no {kind} target called `{name}` in this checkout")
}

/// Builds a test target without running it; the path of its executable.
pub fn build_test(package: &str, name: &str) -> Result<PathBuf> {
    require_target(package, "test", name)?;
    let args =
        ["test", "-p", package, "--test", name, "--no-run", "--message-format=json-render-diagnostics"];
    let mut executable = None;
    let status = Cmd::cargo(args).lines(|line| match line.starts_with('{') {
        true => executable = executable_of_line(line, name).or(executable.take()),
        false => eprintln!("{line}"),
    })?;
    if !status.success() {
        bail!("the test `{name}` of {package} does not build: {status}");
    }
    executable.with_context(|| format!("cargo named no executable for the test `{name}` of {package}"))
}

fn read() -> Result<Value> {
    let json = Cmd::cargo(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    serde_json::from_str(&json).context("cannot read the output of cargo metadata")
}

fn targets<'a>(metadata: &'a Value, package: &'a str) -> impl Iterator<Item = &'a Value> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter(move |it| it["name"] == package).filter_map(|it| it["targets"].as_array()).flatten()
}

fn is_of_kind(target: &Value, kind: &str) -> bool {
    target["kind"].as_array().into_iter().flatten().any(|it| it == kind)
}

fn has_target(metadata: &Value, package: &str, kind: &str, name: &str) -> bool {
    targets(metadata, package).any(|target| target["name"] == name && is_of_kind(target, kind))
}

/// The executable in a `compiler-artifact` message of cargo's JSON output.
fn executable_of_line(line: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
    message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_targets_by_package_kind_and_name() {
        let metadata = serde_json::json!({"packages": [
            {"name": "lb-tests", "targets": [{"name": "demo", "kind": ["bin"]}, {"name": "packets", "kind": ["test"]}]},
            {"name": "lb", "targets": [{"name": "lab", "kind": ["bin"]}]},
        ]});
        assert!(has_target(&metadata, "lb-tests", "bin", "demo"));
        assert!(!has_target(&metadata, "lb-tests", "test", "demo"));
        assert!(!has_target(&metadata, "lb-tests", "bin", "lab"));
    }

    #[test]
    fn finds_the_executable_among_messages() {
        let line =
            r#"{"reason":"compiler-artifact","target":{"name":"packets"},"executable":"/t/packets-1"}"#;
        assert_eq!(executable_of_line(line, "packets"), Some(PathBuf::from("/t/packets-1")));
        assert_eq!(executable_of_line(line, "labs"), None);
        let library = r#"{"reason":"compiler-artifact","target":{"name":"packets"},"executable":null}"#;
        assert_eq!(executable_of_line(library, "packets"), None);
        assert_eq!(executable_of_line("warning: something", "packets"), None);
    }
}
