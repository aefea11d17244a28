//! What commands print: a table for people, JSON or YAML for programs, to standard output. A reader that went away is no
//! error.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use clap::ValueEnum;
use serde::Serialize;

use crate::exit::{Failure, Outcome};

/// In which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// Prints a value: as what it is for programs, as `table` makes it for people.
pub(crate) fn show<T: Serialize>(format: Format, value: &T, table: impl FnOnce(&T) -> String) -> Outcome {
    let text = match format {
        Format::Table => table(value),
        Format::Json => serde_json::to_string_pretty(value).map_err(Failure::unavailable)? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(value).map_err(Failure::unavailable)?,
    };
    print(&text)
}

/// Prints text as it is.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::unavailable(error)),
        _ => Ok(()),
    }
}

/// Two columns: names and values.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:width$}  {value}");
        text
    })
}

/// Columns under headings, as wide as need be.
pub(crate) fn columns<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        longest.max(headings[column].len())
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(headings.map(str::to_owned)).chain(rows.iter().cloned()) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_carry_no_trailing_blanks() {
        let rows = [["1".into(), "long value".into()], ["22".into(), "x".into()]];
        assert_eq!(columns(["N", "WHAT"], &rows), "N   WHAT\n1   long value\n22  x\n");
        assert_eq!(pairs(&[("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2\n");
    }
}
