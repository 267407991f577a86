//! YAML into the tree. The parser is the one inside serde-saphyr, used below serde so that every
//! scalar keeps its style and every key its place. Aliases are unfolded within a budget; tags,
//! merge keys and further documents are named as problems, since nobody would expect them to be
//! ignored.

use std::collections::HashMap;
use std::ops::Range;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, ScanError, Span};

use super::{FILE_BYTES_MAX, Key, NESTING_MAX, NODES_MAX, Node, Problem, Problems, SourceFile};
use super::{Style, Value};

/// Reads one YAML document. With problems there may still be a tree: what could be read.
pub(super) fn read(file: &SourceFile, problems: &mut Problems) -> Option<Node> {
    if file.text.len() > FILE_BYTES_MAX {
        let message = format!("the file is longer than {FILE_BYTES_MAX} bytes");
        problems.push(Problem::error(file, 0..0, message));
        return None;
    }
    let start = file.content_start();
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: NESTING_MAX,
        block_nesting_limit: NESTING_MAX,
    };
    let parser = Parser::new_from_str_with_options(&file.text[start..], options);
    let mut builder =
        Builder { file, problems, parser, start, anchors: HashMap::new(), nodes: 0, fatal: false };
    builder.document()
}

type Text<'f> = granit_parser::StrInput<'f>;

struct Builder<'f, 'p> {
    file: &'f SourceFile,
    problems: &'p mut Problems,
    parser: Parser<'f, Text<'f>>,
    /// Where the parser's offset 0 is in the file.
    start: usize,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// Nothing more is read after this.
    fatal: bool,
}

impl<'f> Builder<'f, '_> {
    fn document(&mut self) -> Option<Node> {
        let mut root = None;
        while let Some((event, span)) = self.next() {
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    let help = "put it into a file of its own";
                    self.problem(&span, "a second document in one file is not read", Some(help));
                    break;
                }
                event => root = Some(self.node(event, span)?),
            }
        }
        if self.fatal { None } else { root }
    }

    fn next(&mut self) -> Option<(Event<'f>, Span)> {
        if self.fatal {
            return None;
        }
        match self.parser.next_event()? {
            Ok(next) => Some(next),
            Err(error) => {
                self.syntax(&error);
                None
            }
        }
    }

    fn syntax(&mut self, error: &ScanError) {
        self.fatal = true;
        let at = self.start + error.marker().byte_offset().unwrap_or(0);
        let mut problem = Problem::error(self.file, at..at, error.info());
        let line = self.file.text[..at.min(self.file.text.len())].rsplit('\n').next();
        if line.is_some_and(|line| line.contains('\t')) {
            problem = problem.help("YAML is indented with spaces, never with tabs");
        }
        self.problems.push(problem);
    }

    /// The node that begins with `event`; `None` when nothing more can be read.
    fn node(&mut self, event: Event<'f>, span: Span) -> Option<Node> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            self.problem(&span, "the file unfolds into too many values", None);
            self.fatal = true;
            return None;
        }
        let range = self.range(&span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.map(|tag| tag.into_owned());
                let forced = self.tag(tag.as_ref(), &span);
                let value = scalar(&text, style, forced);
                Some(self.anchored(anchor, Node { range, value }))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), &span);
                let node = self.list(range)?;
                Some(self.anchored(anchor, node))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), &span);
                let node = self.map(range)?;
                Some(self.anchored(anchor, node))
            }
            Event::Alias(id) => self.alias(id, &span),
            Event::UnresolvedAlias(name) => {
                let message = format!("no `&{name}` stands before this `*{name}`");
                self.problem(&span, message, Some("put a text that begins with `*` in quotes"));
                Some(Node { range, value: Value::Null })
            }
            _ => None,
        }
    }

    fn list(&mut self, mut range: Range<usize>) -> Option<Node> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                range.end = end_of(self.range(&span), items.last().map(|item: &Node| &item.range));
                return Some(Node { range, value: Value::List(items) });
            }
            items.push(self.node(event, span)?);
        }
    }

    fn map(&mut self, mut range: Range<usize>) -> Option<Node> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut names: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                let last = entries.last().map(|(_, node)| &node.range);
                range.end = end_of(self.range(&span), last);
                return Some(Node { range, value: Value::Map(entries) });
            }
            let key = self.key(event, span)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            let Some(key) = key else { continue };
            if let Some(first) = names.insert(key.name.clone(), key.range.start) {
                let (line, _) = self.file.line_column(first);
                let message = format!("`{}` is already set in line {line}", key.name);
                self.problems.push(Problem::error(self.file, key.range, message));
                continue;
            }
            entries.push((key, value));
        }
    }

    /// A key; `Some(None)` when it is something that cannot be one.
    #[allow(clippy::option_option)] // Outer: the text ended. Inner: this key is unusable.
    fn key(&mut self, event: Event<'f>, span: Span) -> Option<Option<Key>> {
        let range = self.range(&span);
        if let Event::Scalar(text, style, 0, None) = &event {
            if text == "<<" {
                self.problem(&span, "merge keys are not understood", None);
                return Some(None);
            }
            self.nodes += 1;
            return Some(Some(Key { range, name: text.to_string(), style: style_of(*style) }));
        }
        self.node(event, span)?;
        let braces = self.file.text[range.start.min(self.file.text.len())..].starts_with('{');
        let help = braces.then_some("put a text that begins with `{{` in quotes");
        self.problem(&span, "a key is a plain text", help);
        Some(None)
    }

    fn alias(&mut self, id: usize, span: &Span) -> Option<Node> {
        let Some(node) = self.anchors.get(&id) else {
            self.problem(span, "this alias stands inside what it stands for", None);
            return Some(Node { range: self.range(span), value: Value::Null });
        };
        let node = node.clone();
        self.nodes += count(&node);
        if self.nodes > NODES_MAX || depth(&node) > NESTING_MAX {
            self.problem(span, "the file unfolds into too many values", None);
            self.fatal = true;
            return None;
        }
        Some(node)
    }

    fn anchored(&mut self, anchor: usize, node: Node) -> Node {
        if anchor != 0 {
            self.nodes += count(&node);
            self.anchors.insert(anchor, node.clone());
        }
        node
    }

    /// Whether a tag forces the scalar to be a text; any tag but the core ones is a problem.
    fn tag(&mut self, tag: Option<&granit_parser::Tag>, span: &Span) -> bool {
        let Some(tag) = tag else { return false };
        match tag.core_suffix() {
            Some("str") => true,
            Some("map" | "seq" | "int" | "float" | "bool" | "null") => false,
            _ => {
                let at = span.tag_span().unwrap_or(*span);
                let message = format!("the tag `{}` is not understood", tag.original());
                self.problem(&at, message, Some("rules have no includes and no secrets"));
                true
            }
        }
    }

    fn range(&self, span: &Span) -> Range<usize> {
        let range = span.byte_range().unwrap_or(0..0);
        self.start + range.start..self.start + range.end.max(range.start)
    }

    fn problem(&mut self, span: &Span, message: impl Into<String>, help: Option<&str>) {
        let mut problem = Problem::error(self.file, self.range(span), message);
        problem.help = help.map(String::from);
        self.problems.push(problem);
    }
}

/// Where a collection ends: at its closing bracket, or with its last item when it has none.
fn end_of(closing: Range<usize>, last: Option<&Range<usize>>) -> usize {
    match last {
        Some(last) if closing.is_empty() => last.end,
        _ => closing.end,
    }
}

fn count(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|(_, node)| 1 + count(node)).sum::<usize>(),
        _ => 1,
    }
}

fn depth(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => entries.iter().map(|(_, node)| depth(node)).max().unwrap_or(0),
        _ => 0,
    }
}

fn style_of(style: ScalarStyle) -> Style {
    match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted => Style::Single,
        ScalarStyle::DoubleQuoted => Style::Double,
        ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
    }
}

/// A scalar by the YAML 1.2 core schema: `yes`, `no`, `on` and `off` are texts.
fn scalar(text: &str, style: ScalarStyle, forced: bool) -> Value {
    let style = style_of(style);
    if style != Style::Plain || forced {
        return Value::Text(text.to_string(), style);
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).unwrap_or_else(|| Value::Text(text.to_string(), Style::Plain)),
    }
}

fn number(text: &str) -> Option<Value> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok().map(Value::Int);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return i64::from_str_radix(octal, 8).ok().map(Value::Int);
    }
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Value::Int);
    }
    let numeric = |byte: u8| byte.is_ascii_digit() || b".eE+-".contains(&byte);
    if digits.bytes().all(numeric) && digits.bytes().any(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|float: &f64| float.is_finite()).map(Value::Float);
    }
    None
}

/// Where the character at `offset` of a decoded text stands in the file. Content characters
/// follow each other in the same order in both; only indentation, folds and escapes lie between.
pub(super) fn offset_in_file(
    source: &str,
    range: &Range<usize>,
    style: Style,
    text: &str,
    offset: usize,
) -> usize {
    let raw = source.get(range.clone()).unwrap_or("");
    let mut walk = Walk { raw, style, at: content_start(raw, style) };
    for (at, letter) in text.char_indices() {
        if at >= offset {
            if !letter.is_whitespace() {
                walk.skip_filling();
            }
            break;
        }
        walk.pass(letter);
    }
    range.start + walk.at.min(raw.len())
}

fn content_start(raw: &str, style: Style) -> usize {
    match style {
        Style::Plain => 0,
        Style::Single | Style::Double => usize::from(raw.starts_with(['\'', '"'])),
        Style::Block if raw.starts_with(['|', '>']) => {
            raw.find('\n').map_or(raw.len(), |at| at + 1)
        }
        Style::Block => 0,
    }
}

struct Walk<'a> {
    raw: &'a str,
    style: Style,
    at: usize,
}

impl Walk<'_> {
    /// Moves over what stands in the file for one decoded character.
    fn pass(&mut self, letter: char) {
        if letter.is_whitespace() {
            self.pass_blank();
        } else {
            self.skip_filling();
            self.at += self.escape().unwrap_or_else(|| self.width());
        }
    }

    fn pass_blank(&mut self) {
        if let Some(escape) = self.escape() {
            self.at += escape;
            return;
        }
        let rest = &self.raw[self.at..];
        let run = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        if run > 0 && self.style != Style::Block && rest[..run].contains('\n') {
            self.at += run; // A fold: the whole run stands for one blank.
        } else if run > 0 {
            self.at += 1;
        }
    }

    /// Moves over indentation and folds.
    fn skip_filling(&mut self) {
        loop {
            let rest = &self.raw[self.at..];
            let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
            self.at += rest.len() - trimmed.len();
            let continued = self.style == Style::Double
                && (trimmed.starts_with("\\\n") || trimmed.starts_with("\\\r"));
            if !continued {
                return;
            }
            self.at += 1;
        }
    }

    fn width(&self) -> usize {
        self.raw[self.at..].chars().next().map_or(0, char::len_utf8)
    }

    /// The length of the escape that stands here, if one does.
    fn escape(&self) -> Option<usize> {
        let rest = &self.raw[self.at..];
        match self.style {
            Style::Single => rest.starts_with("''").then_some(2),
            Style::Double if rest.starts_with('\\') => {
                let letter = rest[1..].chars().next()?;
                let digits = match letter {
                    'x' => 2,
                    'u' => 4,
                    'U' => 8,
                    _ => 0,
                };
                Some((1 + letter.len_utf8() + digits).min(rest.len())).filter(|_| letter != '\n')
            }
            _ => None,
        }
    }
}
