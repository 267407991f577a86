//! TOML into the tree, by the `toml` crate's own spanned document. Its parser recovers, so all
//! syntax errors of a file are listed at once.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{FILE_BYTES_MAX, Key, NESTING_MAX, Node, Problem, Problems, SourceFile, Style, Value};

/// Reads a TOML document; with problems, what could be read.
pub(super) fn read(file: &SourceFile, problems: &mut Problems) -> Option<Node> {
    if file.text.len() > FILE_BYTES_MAX {
        let message = format!("the file is longer than {FILE_BYTES_MAX} bytes");
        problems.push(Problem::error(file, 0..0, message));
        return None;
    }
    let start = file.content_start();
    let (table, errors) = DeTable::parse_recoverable(&file.text[start..]);
    for error in &errors {
        let range = error.span().unwrap_or(0..0);
        let range = range.start + start..range.end + start;
        problems.push(Problem::error(file, range, error.message().trim().to_string()));
    }
    let whole = start..file.text.len();
    let mut reader = Reader { file, problems, start };
    Some(Node { range: whole, value: reader.table(table.into_inner(), 0) })
}

struct Reader<'f, 'p> {
    file: &'f SourceFile,
    problems: &'p mut Problems,
    start: usize,
}

impl Reader<'_, '_> {
    fn table(&mut self, table: DeTable<'_>, depth: usize) -> Value {
        let mut entries: Vec<(Key, Node)> = Vec::with_capacity(table.len());
        for (key, value) in table {
            let range = self.range(key.span());
            let name = key.into_inner().into_owned();
            let key = Key { range, name, style: Style::Plain };
            entries.push((key, self.node(value, depth + 1)));
        }
        entries.sort_by_key(|(key, _)| key.range.start);
        Value::Map(entries)
    }

    fn node(&mut self, value: Spanned<DeValue<'_>>, depth: usize) -> Node {
        let range = self.range(value.span());
        if depth > NESTING_MAX {
            let message = format!("nested deeper than {NESTING_MAX} levels");
            self.problems.push(Problem::error(self.file, range.clone(), message));
            return Node { range, value: Value::Null };
        }
        let value = match value.into_inner() {
            DeValue::String(text) => Value::Text(text.into_owned(), Style::Plain),
            DeValue::Boolean(flag) => Value::Bool(flag),
            DeValue::Datetime(moment) => Value::Text(moment.to_string(), Style::Plain),
            DeValue::Integer(digits) => {
                match i64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(number) => Value::Int(number),
                    Err(_) => self.too_large(&range),
                }
            }
            DeValue::Float(digits) => match digits.as_str().parse::<f64>() {
                Ok(number) if number.is_finite() => Value::Float(number),
                _ => self.too_large(&range),
            },
            DeValue::Array(items) => {
                Value::List(items.into_iter().map(|item| self.node(item, depth + 1)).collect())
            }
            DeValue::Table(table) => self.table(table, depth),
        };
        Node { range, value }
    }

    fn too_large(&mut self, range: &Range<usize>) -> Value {
        self.problems.push(Problem::error(self.file, range.clone(), "the number is out of range"));
        Value::Null
    }

    fn range(&self, span: Range<usize>) -> Range<usize> {
        span.start + self.start..span.end + self.start
    }
}
