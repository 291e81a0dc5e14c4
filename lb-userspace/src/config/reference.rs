//! docs/config.md, from the tables in [`super::schema`].

use std::fmt::Write;

use super::schema::{Absent, Key, SECTIONS, Section};

const HEAD: &str = "\
<!-- Generated from lb-userspace/src/config/schema.rs. Do not edit:
     UPDATE=1 cargo test -p lb-userspace --lib config::reference -->

# The configuration file

One YAML file describes one director. `lb check-config FILE` validates it and prints the memory that it takes;
`lb run --config FILE` and `lb reload` validate it in the same way, as a whole, before anything is touched.
Every problem is reported as `FILE:LINE:COLUMN: what is wrong; what would be right`. `lb save` writes the running
state as such a file.

The smallest file is `interfaces: [eth0]`; [examples/mysql.yaml](examples/mysql.yaml) balances MySQL and
[examples/full.yaml](examples/full.yaml) shows every key.

* **duration**: whole seconds, or a number with `s`, `m`, `h` or `d`: `900`, `900s`, `15m`, `1h`.
* **short duration**: the same, or milliseconds: `500ms`, `2`, `2s`, `1m`; at most a day.
* **count**: a number; capacities also with `k` (1024) or `M` (1048576): `256k`, `1M`.
* Anchors and aliases (`&name`, `*name`) work. Key and value are case-sensitive, but not the fixed words (`TCP`).
";

/// The reference of the configuration file, in Markdown.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    for section in SECTIONS {
        describe_section(section, &mut text);
    }
    text
}

fn describe_section(section: &Section, text: &mut String) {
    let title = if section.path.is_empty() { "Top level".to_owned() } else { format!("`{}`", section.path) };
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\n## {title}\n\n{}\n\n| key | takes | default | meaning |\n|---|---|---|---|\n",
        section.doc
    );
    for key in section.keys {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {}{} |",
            key.name,
            key.takes,
            default_of(key),
            key.doc,
            also(key)
        );
    }
}

fn default_of(key: &Key) -> String {
    match key.absent {
        Absent::Required => "**required**".to_owned(),
        Absent::Is(value) => format!("`{value}`"),
        Absent::Words(words) => words.to_owned(),
    }
}

fn also(key: &Key) -> String {
    if key.also.is_empty() {
        return String::new();
    }
    let words: Vec<String> = key.also.iter().map(|w| format!("`{w}`")).collect();
    format!(" (Also accepted: {}.)", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_reference_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, reference()).expect("docs/config.md can be written");
        }
        let committed = std::fs::read_to_string(path).expect("docs/config.md is there");
        assert!(
            committed == reference(),
            "docs/config.md is out of date: run `UPDATE=1 cargo test -p lb-userspace --lib config::reference`"
        );
    }
}
