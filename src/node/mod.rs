//! A text with positions: YAML and TOML read into one tree in which every node and every key
//! knows its bytes, and a decoder on top that lists all problems instead of stopping at the
//! first. It knows neither rules nor config, and never panics on what it reads.

mod decode;
mod problem;
mod toml;
mod yaml;

pub use decode::{Cursor, Given, Reader, Table, duration, duration_text};
pub use problem::{Level, PROBLEMS_MAX, Problem, Problems, SourceFile, nearest};

use std::ops::Range;

/// The most bytes read from one file: ten thousand rules take about three megabytes.
pub const FILE_BYTES_MAX: usize = 8 << 20;
/// How deep collections may nest. Rules need about eight; recursion over the tree stays shallow.
pub const NESTING_MAX: usize = 64;
/// The most nodes one file may unfold into; aliases would let a few bytes become billions.
pub const NODES_MAX: usize = 1_000_000;

/// One value in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its bytes in the file. Of a YAML alias: those of what it stands for.
    pub range: Range<usize>,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A text.
    Text(String, Style),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in the order of the file. No key is there twice.
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its bytes in the file.
    pub range: Range<usize>,
    /// Its name.
    pub name: String,
    /// How it is written.
    pub style: Style,
}

/// How a text is written, which decides where its characters are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As it is (YAML plain, or any TOML text without escapes).
    Plain,
    /// YAML `'…'`.
    Single,
    /// YAML or TOML `"…"`.
    Double,
    /// YAML `|` or `>`.
    Block,
}

impl Value {
    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(..) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}
