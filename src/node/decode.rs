//! From the tree to values. A decoder asks for what it needs; whatever does not fit is noted in
//! the [`Reader`] and the answer is `None`, so that one pass finds every problem of a file.
//!
//! ```
//! use portero::node::{Reader, SourceFile};
//!
//! let reader = Reader::new(SourceFile::new("portero.toml", "[server]\nlisten = 8080\n"));
//! let root = reader.toml().and_then(|root| root.table());
//! if let Some(mut root) = root {
//!     if let Some(mut server) = root.required("server").and_then(|at| at.table()) {
//!         let listen = server.required("listen").and_then(|at| at.text());
//!         assert_eq!(listen, None);
//!         server.done();
//!     }
//!     root.done();
//! }
//! let problems = reader.into_problems();
//! assert_eq!(problems.to_string(), "portero.toml:2:10: `listen` is a number, not a text");
//! ```

use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::{Key, Node, Problem, Problems, SourceFile, Style, Value, nearest, toml, yaml};
use crate::secret::Secret;

/// One file being decoded, and what was found wrong in it so far.
#[derive(Debug)]
pub struct Reader {
    file: SourceFile,
    root: std::cell::OnceCell<Option<Node>>,
    problems: RefCell<Problems>,
}

impl Reader {
    /// Begins with a file.
    pub fn new(file: SourceFile) -> Reader {
        Reader { file, root: std::cell::OnceCell::new(), problems: RefCell::default() }
    }

    /// The whole file as YAML; `None` if it is no YAML or empty.
    pub fn yaml(&self) -> Option<Cursor<'_>> {
        self.root(yaml::read)
    }

    /// The whole file as TOML.
    pub fn toml(&self) -> Option<Cursor<'_>> {
        self.root(toml::read)
    }

    fn root(&self, read: fn(&SourceFile, &mut Problems) -> Option<Node>) -> Option<Cursor<'_>> {
        let node = self.root.get_or_init(|| read(&self.file, &mut self.problems.borrow_mut()));
        let node = node.as_ref()?;
        Some(Cursor { reader: self, node, name: None })
    }

    /// A place made by hand, such as a key whose name is itself a template.
    pub fn at<'r>(&'r self, node: &'r Node) -> Cursor<'r> {
        Cursor { reader: self, node, name: None }
    }

    /// The file.
    pub fn file(&self) -> &SourceFile {
        &self.file
    }

    /// Notes a problem.
    pub fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Notes that `message` holds of these bytes.
    pub fn wrong(&self, range: Range<usize>, message: impl Into<String>) {
        self.push(Problem::error(&self.file, range, message));
    }

    /// As [`Reader::wrong`], with advice.
    pub fn wrong_help(&self, range: Range<usize>, message: impl Into<String>, help: String) {
        self.push(Problem::error(&self.file, range, message).help(help));
    }

    /// What was found wrong, sorted.
    pub fn into_problems(self) -> Problems {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems
    }
}

/// A secret as a config gives it.
#[derive(Debug, Clone)]
pub enum Given {
    /// The text itself stands in the file.
    Text(Secret),
    /// In an environment variable.
    Env(String),
    /// In a file of its own.
    File(PathBuf),
}

/// One place in the tree.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'r> {
    reader: &'r Reader,
    node: &'r Node,
    /// The key under which it stands.
    name: Option<&'r str>,
}

impl<'r> Cursor<'r> {
    /// The node itself.
    pub fn node(self) -> &'r Node {
        self.node
    }

    /// What notes problems.
    pub fn reader(self) -> &'r Reader {
        self.reader
    }

    /// The bytes to point at: of a map its first key, else the whole.
    pub fn range(self) -> Range<usize> {
        match &self.node.value {
            Value::Map(entries) if !entries.is_empty() => entries[0].0.range.clone(),
            _ => self.node.range.clone(),
        }
    }

    /// `rules/a.yaml:7:9`.
    pub fn place(self) -> String {
        self.reader.file.place(self.range().start)
    }

    /// Notes a problem here.
    pub fn wrong(self, message: impl Into<String>) {
        self.reader.wrong(self.range(), message);
    }

    /// Notes a problem here, with advice.
    pub fn wrong_help(self, message: impl Into<String>, help: impl Into<String>) {
        self.reader.wrong_help(self.range(), message, help.into());
    }

    /// Whether nothing stands here.
    pub fn is_null(self) -> bool {
        matches!(self.node.value, Value::Null)
    }

    /// Notes that something else was wanted here.
    pub fn mismatch<T>(self, wanted: &str) -> Option<T> {
        let kind = self.node.value.kind();
        match self.name {
            Some(name) => self.wrong(format!("`{name}` is {kind}, not {wanted}")),
            None => self.wrong(format!("this is {kind}, not {wanted}")),
        }
        None
    }

    /// A text, never empty.
    pub fn text(self) -> Option<&'r str> {
        let Value::Text(text, _) = &self.node.value else { return self.mismatch("a text") };
        if text.is_empty() {
            let name = self.name.unwrap_or("this");
            self.wrong(format!("`{name}` is empty"));
            return None;
        }
        Some(text)
    }

    /// A text that may be empty; also a plain number or word such as `12` or `true`, as written.
    pub fn loose_text(self) -> Option<&'r str> {
        match &self.node.value {
            Value::Text(text, _) => Some(text),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                self.reader.file.text.get(self.node.range.clone())
            }
            _ => self.mismatch("a text"),
        }
    }

    /// `true` or `false`.
    pub fn flag(self) -> Option<bool> {
        match &self.node.value {
            Value::Bool(flag) => Some(*flag),
            Value::Text(word, Style::Plain) if ["yes", "on", "no", "off"].contains(&&**word) => {
                let name = self.name.unwrap_or("this");
                let meant = ["yes", "on"].contains(&&**word);
                let message = format!("`{name}` is the text \"{word}\", not true or false");
                self.wrong_help(message, format!("write `{meant}`"));
                None
            }
            _ => self.mismatch("true or false"),
        }
    }

    /// A whole number in a range.
    pub fn int(self, allowed: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let Value::Int(number) = self.node.value else { return self.mismatch("a whole number") };
        if !allowed.contains(&number) {
            let (low, high) = (allowed.start(), allowed.end());
            let name = self.name.unwrap_or("this");
            self.wrong(format!("`{name}` is {number}; it is between {low} and {high}"));
            return None;
        }
        Some(number)
    }

    /// A duration such as `30s`, `10m`, `1h30m`, `7d`, no shorter than `least` and no longer than
    /// `most`.
    pub fn duration(self, least: Duration, most: Duration) -> Option<Duration> {
        let help = "a duration is a number with a unit: 500ms, 30s, 10m, 24h, 7d";
        let name = self.name.unwrap_or("this");
        let text = self.loose_text()?;
        let Some(given) = duration(text) else {
            self.wrong_help(format!("`{name}` is \"{text}\", which is no duration"), help);
            return None;
        };
        if given < least || given > most {
            let (least, most) = (duration_text(least), duration_text(most));
            self.wrong(format!("`{name}` is {text}; it is between {least} and {most}"));
            return None;
        }
        Some(given)
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, meant)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*meant);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let message = format!("`{text}` is not one of {}", names.join(", "));
        match nearest(text, names) {
            Some(near) => self.wrong_help(message, format!("did you mean `{near}`?")),
            None => self.wrong(message),
        }
        None
    }

    /// A text that `T` reads; `wanted` says what it looks like: "an address such as 127.0.0.1:80".
    pub fn parse<T: std::str::FromStr>(self, wanted: &str) -> Option<T> {
        let text = self.text()?;
        let read = text.parse().ok();
        if read.is_none() {
            self.wrong(format!("\"{text}\" is not {wanted}"));
        }
        read
    }

    /// A secret: a text, `{ env = "NAME" }` or `{ file = "path" }`. Nothing is read here.
    pub fn secret(self) -> Option<Given> {
        if let Value::Text(..) = &self.node.value {
            return self.text().map(|text| Given::Text(Secret::new(text)));
        }
        if !matches!(self.node.value, Value::Map(_)) {
            return self.mismatch("a text, { env = \"NAME\" } or { file = \"path\" }");
        }
        let mut table = self.table()?;
        let env = table.optional("env").map(|at| at.text().map(str::to_string));
        let file = table.optional("file").map(|at| at.text().map(PathBuf::from));
        let strange = table.entries.len() > 1 || table.entries.is_empty();
        table.done();
        if strange {
            self.wrong("a secret is a text, { env = \"NAME\" } or { file = \"path\" }");
            return None;
        }
        env.flatten().map(Given::Env).or_else(|| file.flatten().map(Given::File))
    }

    /// The items of a list.
    pub fn list(self) -> Option<Vec<Cursor<'r>>> {
        let Value::List(items) = &self.node.value else { return self.mismatch("a list") };
        Some(items.iter().map(|node| Cursor { node, name: None, ..self }).collect())
    }

    /// The value of a key, without any problem if there is none.
    pub fn get(self, name: &str) -> Option<Cursor<'r>> {
        let Value::Map(entries) = &self.node.value else { return None };
        let (key, node) = entries.iter().find(|(key, _)| key.name == name)?;
        Some(Cursor { node, name: Some(&key.name), ..self })
    }

    /// The items of a list; none, without any problem, if it is no list.
    pub fn items(self) -> impl Iterator<Item = Cursor<'r>> {
        let items = match &self.node.value {
            Value::List(items) => items.as_slice(),
            _ => &[],
        };
        items.iter().map(move |node| Cursor { node, name: None, ..self })
    }

    /// The items of a list, or the one thing that stands in its place.
    pub fn list_or_one(self) -> Vec<Cursor<'r>> {
        match &self.node.value {
            Value::List(items) => {
                items.iter().map(|node| Cursor { node, name: self.name, ..self }).collect()
            }
            _ => vec![self],
        }
    }

    /// A list of texts.
    pub fn texts(self) -> Option<Vec<&'r str>> {
        Some(self.list()?.into_iter().filter_map(Cursor::text).collect())
    }

    /// A map whose keys are known names.
    pub fn table(self) -> Option<Table<'r>> {
        let Value::Map(entries) = &self.node.value else { return self.mismatch("a map") };
        Some(Table { at: self, entries, asked: Vec::new(), allowed: Vec::new() })
    }

    /// A map whose keys are the user's own names.
    pub fn named(self) -> Option<Vec<(&'r Key, Cursor<'r>)>> {
        let Value::Map(entries) = &self.node.value else { return self.mismatch("a map") };
        let cursor = |(key, node): &'r (Key, Node)| {
            (key, Cursor { node, name: Some(key.name.as_str()), ..self })
        };
        Some(entries.iter().map(cursor).collect())
    }

    /// Where the character at `offset` of this text stands in the file.
    pub fn offset_in_file(self, offset: usize) -> usize {
        self.node.offset_in_file(&self.reader.file, offset)
    }
}

impl Node {
    /// Where the character at `offset` of this text stands in the file; the node's start if it is
    /// no text.
    pub fn offset_in_file(&self, file: &SourceFile, offset: usize) -> usize {
        match &self.value {
            Value::Text(text, style) => {
                yaml::offset_in_file(&file.text, &self.range, *style, text, offset)
            }
            _ => self.range.start,
        }
    }
}

/// A map being taken apart by known keys; [`Table::done`] reports the keys nobody asked for.
#[derive(Debug)]
pub struct Table<'r> {
    at: Cursor<'r>,
    entries: &'r [(Key, Node)],
    asked: Vec<&'static str>,
    allowed: Vec<&'r str>,
}

impl<'r> Table<'r> {
    /// The whole map.
    pub fn at(&self) -> Cursor<'r> {
        self.at
    }

    /// The value of a key, if it is there.
    pub fn optional(&mut self, name: &'static str) -> Option<Cursor<'r>> {
        self.asked.push(name);
        let (key, node) = self.entries.iter().find(|(key, _)| key.name == name)?;
        Some(Cursor { node, name: Some(&key.name), ..self.at })
    }

    /// The value of a key; a problem if it is missing.
    pub fn required(&mut self, name: &'static str) -> Option<Cursor<'r>> {
        let found = self.optional(name);
        if found.is_none() {
            self.at.wrong(format!("`{name}` is missing"));
        }
        found
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lets a key pass that is not known beforehand.
    pub fn allow(&mut self, name: &'r str) {
        self.allowed.push(name);
    }

    /// The bytes of a key, to point at the key itself.
    pub fn key_range(&self, name: &str) -> Option<Range<usize>> {
        self.entries.iter().find(|(key, _)| key.name == name).map(|(key, _)| key.range.clone())
    }

    /// Reports every key that was never asked for, with the name that was probably meant.
    pub fn done(self) {
        self.done_with(|_| None);
    }

    /// As [`Table::done`]; `advice` may explain a key better than a similar name would.
    pub fn done_with(self, advice: impl Fn(&str) -> Option<String>) {
        for (key, _) in self.entries {
            let name = key.name.as_str();
            if self.asked.contains(&name) || self.allowed.contains(&name) {
                continue;
            }
            let unused = |asked: &&str| !self.entries.iter().any(|(key, _)| key.name == *asked);
            let near = nearest(name, self.asked.iter().copied().filter(unused));
            let help = advice(name)
                .or_else(|| near.map(|near| format!("did you mean `{near}`?")))
                .unwrap_or_else(|| format!("known here: {}", self.asked.join(", ")));
            let message = format!("`{name}` is not known");
            self.at.reader.wrong_help(key.range.clone(), message, help);
        }
    }
}

/// Reads `500ms`, `30s`, `10m`, `24h`, `7d`, or several together: `1h30m`.
pub fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        rest = rest[letters..].trim_start();
        total = total.checked_add(Duration::from_millis(number.checked_mul(unit_ms)?))?;
    }
    Some(total)
}

/// Writes a duration as [`duration`] reads it: `1h30m`.
pub fn duration_text(duration: Duration) -> String {
    let mut ms = duration.as_millis();
    let mut text = String::new();
    for (unit, unit_ms) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)]
    {
        if ms >= unit_ms {
            text.push_str(&format!("{}{unit}", ms / unit_ms));
            ms %= unit_ms;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests;
