//! docs/cli.md is generated from the definitions; this fails when the committed file is stale. What other
//! documents say about commands and verdicts is held against the definitions too.

use std::{env, fs, path::Path};

use clap::{CommandFactory, Parser};
use lb_common::verdict::{Event, Verdict};

use crate::{
    cli::{args::Cli, exit::EXIT_CODES},
    doctor::{self, Severity},
    events::Kind,
};

/// What the definitions do not say.
const ABOUT_OUTPUT: &str = "\
## Output

Stdout has the answer and nothing else; warnings (`lb: warning: ...`) and errors (`lb: error: ...`, one
paragraph that says what to do) go to stderr. A reader that goes away, as in `lb conn list | head`, is no error.

Tables shorten large numbers (`1.23M`, `5.72MiB`) and are coloured on a terminal only, unless `NO_COLOR` is set.
With `--output json` numbers are exact, and every command prints the body of the control API
(`curl --unix-socket /run/lb/default.sock http://lb/v1/...` gives the same), except these:

| command | JSON |
|---|---|
| `lb backend list` | one array of the backends of all chosen services; each is the API's with a field `service` |
| `lb backend drain --wait` | an object a line for each change, with `active` and `inactive`: the connections that are left |
| `lb events` | the events alone, one object a line |
| `lb stats --rate` | `seconds`, and per second `connections`, `packets`, `bytes` of `total` and of each of `services` and its `backends`; `verdicts` |
| `lb stats --watch` | one object a line |
| `lb check-config` | `services`, `backends`, and `memory`: `what` and `bytes` of each kind of map |
| `lb doctor` | `instance`; `findings`: `id`, `severity` (`warning`, `error`), `subject`, `found`, `effect`, `fix`; `unknown`: what could not be looked at; `examined`: how many things were |
| `lb realserver` | `changes`, and `items`: `subject`, `verdict` (`right`, `note`, `wrong`), `found`, `effect`, `fix` |
| `lb save` | no JSON: always the configuration file |

## Examples

```sh
lb service add mysql -t 172.18.14.100:3306 -s wrr   # ipvsadm -A -t 172.18.14.100:3306 -s wrr
lb backend add mysql 172.18.14.11 -w 3              # ipvsadm -a -t 172.18.14.100:3306 -r 172.18.14.11 -g -w 3
lb backend drain mysql 172.18.14.11                 # no new connections, the weight is kept
lb backend list                                     # ipvsadm -Ln
lb conn list --service mysql                        # ipvsadm -Lnc
lb stats --rate --watch                             # watch ipvsadm -Ln --rate
lb service list --output json | jq -r '.[].name'
lb save /etc/lb/lb.yaml                             # ipvsadm -Sn > ...
```

";

fn reference() -> String {
    let options =
        clap_markdown::MarkdownOptions::new().title("The `lb` command line".to_owned()).show_footer(false);
    let body = clap_markdown::help_markdown_command_custom(&Cli::command(), &options);
    let body = body.replace(EXIT_CODES, &format!("```text\n{EXIT_CODES}\n```"));
    let body = body.replacen("## `lb run`", &format!("{ABOUT_OUTPUT}## `lb run`"), 1);
    let mut text = String::from(
        "<!-- Generated from lb-userspace/src/cli by `UPDATE=1 cargo test -p lb-userspace docs`. -->\n\n",
    );
    for line in body.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[test]
fn the_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let wanted = reference();
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "docs/cli.md is stale: UPDATE=1 cargo test -p lb-userspace docs");
}

#[test]
fn every_command_and_option_is_explained() {
    fn check(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{} has no help", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
    Cli::command().debug_assert();
}

#[test]
fn exit_codes_are_in_the_help_and_the_reference() {
    let help = Cli::command().render_long_help().to_string();
    for text in [help, reference()] {
        assert!(text.contains("3  the agent is not running"), "{text}");
    }
}

/// A document, by its path from the repository's root.
fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_verdict_and_event_is_in_the_operators_page() {
    let page = document("docs/operations.md");
    let names = Verdict::ALL.iter().map(|it| it.name()).chain(Event::ALL.iter().map(|it| it.name()));
    for name in names {
        let rows = page.lines().filter(|line| line.starts_with(&format!("| `{name}` |"))).count();
        assert_eq!(rows, 1, "docs/operations.md needs one row that begins with | `{name}` |");
    }
}

#[test]
fn every_kind_of_event_is_in_the_operators_page() {
    let page = document("docs/operations.md");
    for kind in Kind::ALL {
        let told = if kind.is_told() { " yes" } else { "" };
        let begin = format!("| `{kind}` |{told} |");
        let rows = page.lines().filter(|line| line.starts_with(&begin)).count();
        assert_eq!(rows, 1, "docs/operations.md needs one row that begins with {begin}");
    }
}

#[test]
fn every_finding_of_the_doctor_is_in_the_operators_page() {
    let page = document("docs/operations.md");
    for id in doctor::Id::ALL {
        let severity = match id.severity() {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let row = format!("| `{id}` | {severity} | ");
        let rows = page.lines().filter(|line| line.starts_with(&row)).count();
        assert_eq!(rows, 1, "docs/operations.md needs one row that begins with {row}({})", id.meaning());
    }
}

/// Lines of code blocks that begin with `lb`, up to a pipe or a remark.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut is_code = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if is_code && line.starts_with("lb ") {
            let words = words(line).into_iter();
            commands.push(words.take_while(|word| !word.starts_with(['#', '|', '>', '&'])).collect());
        }
    }
    commands
}

/// As a shell sees them, as far as the documents go: what stands between single quotes is one.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate().flat_map(|(n, part)| match n % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    parts.collect()
}

#[test]
fn commands_in_documents_parse() {
    for name in ["README.md", "docs/cli.md", "docs/ipvs-differences.md", "docs/operations.md"] {
        let commands = commands(&document(name));
        assert!(!commands.is_empty(), "{name} has no commands");
        for line in commands {
            if let Err(error) = Cli::try_parse_from(&line) {
                panic!("{name}: {line:?}: {error}");
            }
        }
    }
}
