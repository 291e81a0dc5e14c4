//! keepalived's configuration, with the files that it includes.

use std::{
    fs, mem,
    path::{Component, Path, PathBuf},
};

use crate::doctor::judge::keepalived::{fits, included};

/// Files that include files, and all of them together: one that includes itself is no endless text.
const DEPTH: usize = 8;
const FILES: usize = 256;

/// The text of a file, with the text of others in place of the lines that include them. What cannot be read is named.
pub fn read(file: &Path, unknown: &mut Vec<String>) -> String {
    let mut reader = Reader { text: String::new(), files: 0, cut: false, unknown };
    reader.add(file, DEPTH);
    reader.text
}

struct Reader<'a> {
    text: String,
    files: usize,
    /// That there are too many has been said.
    cut: bool,
    unknown: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn add(&mut self, file: &Path, depth: usize) {
        self.files += 1;
        if depth == 0 || self.files > FILES {
            if !mem::replace(&mut self.cut, true) {
                self.not_read(file, "more files, or deeper ones, than are looked at");
            }
            return;
        }
        let text = match fs::read(file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => return self.not_read(file, &error.to_string()),
        };
        for line in text.lines() {
            let Some(pattern) = included(line) else {
                self.text.push_str(line);
                self.text.push('\n');
                continue;
            };
            // Relative to the file that includes it.
            let path = file.parent().unwrap_or(Path::new("")).join(pattern);
            if pattern.contains(['{', '[', '\\', '$']) {
                self.not_read(&path, "only * and ? are understood in the name of an included file");
                continue;
            }
            for included in matching(&path) {
                // Once is enough, of very many too.
                if self.files <= FILES {
                    self.add(&included, depth - 1);
                }
            }
        }
    }

    fn not_read(&mut self, file: &Path, why: &str) {
        self.unknown.push(format!("virtual servers of keepalived in {}: {why}", file.display()));
    }
}

/// The files that a pattern stands for; without a wildcard the file itself, whether it is there or not.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let wild = match part {
            Component::Normal(name) => name.to_str().filter(|name| name.contains(['*', '?'])),
            _ => None,
        };
        let Some(wild) = wild else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let in_directory = |directory: &PathBuf| {
            let entries =
                fs::read_dir(if directory.as_os_str().is_empty() { Path::new(".") } else { directory });
            let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
            let fitting = names.filter(|name| name.to_str().is_some_and(|name| fits(wild, name)));
            let mut paths: Vec<PathBuf> = fitting.map(|name| directory.join(name)).collect();
            paths.sort();
            paths
        };
        found = found.iter().flat_map(in_directory).filter(|path| path.exists()).collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn included_files_stand_where_they_are_included() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
        fs::create_dir(dir.path().join("conf.d")).expect("made");
        write(
            "main.conf",
            "one\ninclude conf.d/*.conf\nfour\ninclude gone.conf\ninclude {a,b}.conf\ninclude no/*\n",
        );
        write("conf.d/a.conf", "two\n");
        // Relative to itself, and itself.
        write("conf.d/b.conf", "include ../three\ninclude b.conf\n");
        write("three", "three\n");
        write("conf.d/c.conf~", "not this one\n");
        let mut unknown = Vec::new();
        let text = read(&dir.path().join("main.conf"), &mut unknown);
        assert!(text.starts_with("one\ntwo\nthree\n") && text.ends_with("four\n"), "{text}");
        assert!(!text.contains("not this one"));
        assert_eq!(unknown.len(), 3, "{unknown:?}");
        let named = |words: &str| unknown.iter().any(|sentence| sentence.contains(words));
        assert!(named("more files") && named("gone.conf: No such file") && named("{a,b}.conf: only"));
    }

    /// Each of so many includes all of them.
    #[test]
    fn there_is_an_end() {
        let dir = tempfile::tempdir().expect("a directory");
        for n in 0..10 {
            fs::write(dir.path().join(format!("{n}.conf")), "include *.conf\nx\n").expect("written");
        }
        let mut unknown = Vec::new();
        let text = read(&dir.path().join("0.conf"), &mut unknown);
        assert!(text.lines().count() <= FILES && unknown.len() == 1);
    }
}
