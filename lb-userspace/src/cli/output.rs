//! What a command prints: tables for people or JSON for programs on stdout, the rest on stderr.

use std::io::{self, Write};

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};
use serde::Serialize;

use super::args::{ColorChoice, OutputFormat};

/// Stdout and stderr of one command, and how to write to them.
pub struct Output<'a> {
    stdout: &'a mut dyn Write,
    stderr: &'a mut dyn Write,
    pub(super) format: OutputFormat,
    /// Whether stdout is a terminal.
    pub(super) terminal: bool,
    colour: bool,
}

/// A column's title and where its cells stand.
pub(super) enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// What a colour means; nothing is said by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Notice,
    Bad,
}

impl<'a> Output<'a> {
    /// `terminal`: whether stdout is one.
    pub fn new(stdout: &'a mut dyn Write, stderr: &'a mut dyn Write, terminal: bool) -> Self {
        Self { stdout, stderr, format: OutputFormat::Table, terminal, colour: false }
    }

    /// Takes over `--output` and `--color`; `no_color`: NO_COLOR is set and not empty (no-color.org).
    pub(super) fn configure(&mut self, format: OutputFormat, color: ColorChoice, no_color: bool) {
        self.format = format;
        self.colour = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => self.terminal && !no_color,
        };
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Prints `value` on one line, or on several when nothing follows it.
    pub(super) fn json(&mut self, value: &impl Serialize, compact: bool) -> io::Result<()> {
        let text = if compact { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) }?;
        writeln!(self.stdout, "{text}")
    }

    pub(super) fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.stdout, "{}", text.as_ref())
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }

    /// For the operator, one sentence each. Nobody may be listening on stderr: no error.
    pub(super) fn warn<'w>(&mut self, warnings: impl IntoIterator<Item = &'w String>) {
        for warning in warnings {
            let _ = writeln!(self.stderr, "lb: warning: {warning}");
        }
    }

    pub(super) fn note(&mut self, text: &str) {
        let _ = writeln!(self.stderr, "lb: {text}");
    }

    pub(super) fn error(&mut self, text: &str) {
        let _ = writeln!(self.stderr, "lb: error: {text}");
    }

    /// An empty table with these columns.
    pub(super) fn columns(&self, columns: &[Column]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty();
        if self.colour {
            table.enforce_styling();
            table.style_text_only();
        }
        table.set_header(
            columns.iter().map(|column| Cell::new(column.title()).add_attribute(Attribute::Bold)),
        );
        for (shown, column) in table.column_iter_mut().zip(columns) {
            shown.set_padding((0, 2));
            shown.set_cell_alignment(match column {
                Column::Text(_) => CellAlignment::Left,
                Column::Number(_) => CellAlignment::Right,
            });
        }
        table
    }

    pub(super) fn table(&mut self, table: &Table) -> io::Result<()> {
        self.line(table.trim_fmt())
    }

    /// `text` in the colour of `tone`, where colours are wanted.
    pub(super) fn toned(&self, text: &str, tone: Tone) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => 32,
            Tone::Notice => 33,
            Tone::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

impl Column {
    fn title(&self) -> &'static str {
        match self {
            Self::Text(title) | Self::Number(title) => title,
        }
    }
}

impl Tone {
    /// A table's cell.
    pub(super) fn cell(self, text: impl ToString) -> Cell {
        Cell::new(text).fg(match self {
            Self::Good => Color::Green,
            Self::Notice => Color::Yellow,
            Self::Bad => Color::Red,
        })
    }
}

/// A value that may be unknown.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}
