//! Conditions and texts, compiled once: what an `if` says when it is false and why, and what a
//! template becomes. An error is a named reason with a place in the rule file, never a failure of
//! the engine.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use minijinja::machinery::{Token, parse, parse_expr, tokenize};
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Expression, Value};
use serde_json::Value as Json;

use super::names::{self, Fact, Read, Seen};
use super::quick::Quick;
use super::scene::{CONDITIONS, Scene, TEXTS};
use crate::node::{Cursor, Problem, SourceFile};

/// The longest text a template may become; push messages are cut to 2.5 kB anyway.
pub(super) const TEXT_BYTES_MAX: usize = 16 << 10;
/// The longest value shown in an explanation.
const SHOWN_CHARS_MAX: usize = 60;

/// `rules/a.yaml:7:9`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    file: Arc<str>,
    line: u32,
    column: u32,
}

impl Place {
    pub fn new(file: &SourceFile, offset: usize) -> Place {
        let (line, column) = file.line_column(offset);
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Place { file: Arc::clone(&file.path), line: small(line), column: small(column) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// An `if`, split at its outermost `and`s, so that the part that is false can be named.
#[derive(Debug)]
pub(super) struct Condition {
    parts: Vec<Part>,
    reads: Box<[Read]>,
}

#[derive(Debug)]
struct Part {
    source: Box<str>,
    run: Run,
    facts: Vec<KnownFact>,
    place: Place,
    /// It is false whatever is true elsewhere: nothing in it can change.
    is_never: bool,
}

#[derive(Debug)]
enum Run {
    Quick(Quick),
    Machine(Compiled),
}

/// A compiled expression.
struct Compiled(Expression<'static, 'static>);

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

/// A fact that a condition reads and how to read it again for the explanation.
#[derive(Debug)]
struct KnownFact {
    source: Box<str>,
    path: Option<Vec<Box<str>>>,
    guarded: bool,
    place: Place,
}

/// Why a condition let nothing through.
#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    /// It is false.
    False(String),
    /// It could not be evaluated.
    Error(String),
}

impl Condition {
    /// Compiles an `if`; problems are noted where they stand.
    pub fn compile(at: Cursor<'_>) -> Option<Condition> {
        let whole = at.loose_text()?;
        let (source, shift) = unwrapped(whole);
        let expr = match parse_expr(source) {
            Ok(expr) => expr,
            Err(error) => {
                syntax_problem(at, source, shift, &error);
                return None;
            }
        };
        let seen = names::look_at_expr(source, &expr);
        let sound = note(at, shift, &seen);
        let parts: Option<Vec<Part>> = conjuncts(source)
            .into_iter()
            .map(|range| Part::compile(at, source, range, shift))
            .collect();
        let reads = seen.reads.into();
        if let Some(part) = parts.iter().flatten().find(|part| part.is_never) {
            let message = format!("this is never true: `{}`", part.source);
            // Only a warning: somebody may have switched a rule off with it for a while.
            let never = Problem::warning(at.reader().file(), at.range(), message);
            at.reader().push(never.help("what stands behind it is never done"));
        }
        parts.filter(|_| sound).map(|parts| Condition { parts, reads })
    }

    /// The states it may read.
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// Whether it holds; if not, the first part that does not and the values in it.
    pub fn check(&self, scene: &Arc<Scene>) -> Result<(), Refused> {
        self.parts.iter().try_for_each(|part| part.check(scene))
    }
}

impl Part {
    fn compile(at: Cursor<'_>, whole: &str, range: Range<usize>, shift: usize) -> Option<Part> {
        let file = at.reader().file();
        let source = &whole[range.clone()];
        let shift = shift + range.start;
        let parsed = parse_expr(source).and_then(|expr| {
            let run = match Quick::new(&expr) {
                Some(quick) => Run::Quick(quick),
                None => {
                    let run = CONDITIONS.compile_expression_owned(source.to_string())?;
                    Run::Machine(Compiled(run))
                }
            };
            Ok((run, expr))
        });
        let (run, expr) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                syntax_problem(at, source, shift, &error);
                return None;
            }
        };
        let known = |fact: Fact| {
            let place = Place::new(file, at.offset_in_file(shift + fact.range.start));
            KnownFact::new(&source[fact.range.clone()], fact, place)
        };
        let facts = names::look_at_expr(source, &expr).facts.into_iter().map(known).collect();
        let place = Place::new(file, at.offset_in_file(shift));
        let is_never = expr.as_const().is_some_and(|value| !value.is_true());
        Some(Part { source: source.into(), run, facts, place, is_never })
    }

    fn check(&self, scene: &Arc<Scene>) -> Result<(), Refused> {
        let holds = match &self.run {
            Run::Quick(quick) => Ok(quick.holds(scene)),
            Run::Machine(run) => run.0.eval(scene.context()).map(|value| value.is_true()),
        };
        match holds {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refused::False(self.why(scene))),
            Err(error) => Err(Refused::Error(self.fault(scene, &error))),
        }
    }

    fn why(&self, scene: &Arc<Scene>) -> String {
        if let Some(missing) = self.missing(scene) {
            return missing;
        }
        let facts: Vec<String> = self.facts.iter().map(|fact| fact.shown(scene)).collect();
        if facts.is_empty() {
            return self.source.to_string();
        }
        format!("{} — {}", self.source, facts.join(", "))
    }

    fn fault(&self, scene: &Arc<Scene>, error: &Error) -> String {
        let missing = self.missing(scene);
        missing.unwrap_or_else(|| format!("`{}`: {}, {}", self.source, plain(error), self.place))
    }

    /// The first field of the event that this part needs and that is not there.
    fn missing(&self, scene: &Arc<Scene>) -> Option<String> {
        let missing = |fact: &&KnownFact| {
            !fact.guarded && fact.path.is_some() && fact.read(scene).is_undefined()
        };
        let fact = self.facts.iter().find(missing)?;
        Some(format!("`{}` is undefined, {}", fact.source, fact.place))
    }
}

impl KnownFact {
    fn new(source: &str, fact: Fact, place: Place) -> KnownFact {
        let boxed = |path: Vec<String>| path.into_iter().map(String::into_boxed_str).collect();
        KnownFact {
            source: source.into(),
            path: fact.path.map(boxed),
            guarded: fact.guarded,
            place,
        }
    }

    fn read(&self, scene: &Arc<Scene>) -> Value {
        match &self.path {
            Some(path) => scene.path(path),
            // A call. Compiling it again is slower than keeping it compiled, and happens only
            // for conditions that are false; ten thousand rules would pay for it in memory.
            None => CONDITIONS
                .compile_expression(&self.source)
                .and_then(|call| call.eval(scene.context()))
                .unwrap_or_default(),
        }
    }

    fn shown(&self, scene: &Arc<Scene>) -> String {
        format!("{} is {}", self.source, shown(&self.read(scene)))
    }
}

/// A value for an explanation: texts in quotes, long ones cut.
fn shown(value: &Value) -> String {
    if value.is_undefined() {
        return "undefined".into();
    }
    let text = match value.as_str() {
        Some(text) => format!("{text:?}"),
        None if value.is_none() => "null".into(),
        // As rule files write it; the engine itself writes Python's `True`.
        None if value.kind() == ValueKind::Bool => value.is_true().to_string(),
        None => value.to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The expression inside `{{ … }}`, which Home Assistant's users write around conditions, and
/// where it begins.
fn unwrapped(text: &str) -> (&str, usize) {
    let inner = text
        .trim()
        .strip_prefix("{{")
        .and_then(|rest| rest.strip_suffix("}}"))
        .filter(|inner| !inner.contains("{{") && !inner.contains("}}"));
    match inner {
        Some(inner) => (inner, text.find("{{").map_or(0, |at| at + 2)),
        None => (text, 0),
    }
}

/// The parts between the outermost `and`s; the whole if something weaker binds them.
fn conjuncts(source: &str) -> Vec<Range<usize>> {
    let mut depth = 0usize;
    let mut cuts = Vec::new();
    let mut after_dot = false;
    for token in tokenize(source, true, Default::default()) {
        let Ok((token, span)) = token else { break };
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                depth = depth.saturating_sub(1);
            }
            Token::Ident("or" | "if") if depth == 0 && !after_dot => {
                return vec![trimmed(source, 0..source.len())];
            }
            Token::Ident("and") if depth == 0 && !after_dot => {
                cuts.push(span.start_offset as usize..span.end_offset as usize);
            }
            _ => {}
        }
        after_dot = matches!(token, Token::Dot);
    }
    let starts = std::iter::once(0).chain(cuts.iter().map(|cut| cut.end));
    let ends = cuts.iter().map(|cut| cut.start).chain(std::iter::once(source.len()));
    starts.zip(ends).map(|(start, end)| trimmed(source, start..end)).collect()
}

fn trimmed(source: &str, range: Range<usize>) -> Range<usize> {
    let text = &source[range.clone()];
    let start = range.start + (text.len() - text.trim_start().len());
    start..start + text.trim().len()
}

/// A text that may hold expressions.
#[derive(Debug)]
pub(super) struct Text {
    form: Form,
    reads: Box<[Read]>,
}

#[derive(Debug)]
enum Form {
    Literal(Box<str>),
    Pieces(Vec<Piece>),
    /// With statements such as `{% if … %}`; compiled when it is used, which is rare.
    Template(Box<str>, Place),
}

#[derive(Debug)]
enum Piece {
    Raw(Box<str>),
    /// Nothing but a way into the event, which needs no machine.
    Field {
        path: Vec<Box<str>>,
        source: Box<str>,
        place: Place,
    },
    Expr {
        run: Compiled,
        source: Box<str>,
        place: Place,
    },
}

impl Text {
    /// A fixed text.
    pub fn literal(text: &str) -> Text {
        Text { form: Form::Literal(text.into()), reads: Box::default() }
    }

    /// Compiles a template; problems are noted where they stand.
    pub fn compile(at: Cursor<'_>) -> Option<Text> {
        Text::compile_source(at, at.loose_text()?)
    }

    /// Compiles a template that is a key of a map or the like: `at` only says where it stands.
    pub fn compile_source(at: Cursor<'_>, source: &str) -> Option<Text> {
        if !source.contains("{{") && !source.contains("{%") && !source.contains("{#") {
            return Some(Text::literal(source));
        }
        let template = match parse(source, "text", Default::default()) {
            Ok(template) => template,
            Err(error) => {
                syntax_problem(at, source, 0, &error);
                return None;
            }
        };
        let seen = names::look_at_template(source, &template);
        if !note(at, 0, &seen) {
            return None;
        }
        let form = match pieces(at, source) {
            Some(pieces) => Form::Pieces(pieces),
            None => {
                let place = Place::new(at.reader().file(), at.offset_in_file(0));
                Form::Template(source.into(), place)
            }
        };
        Some(Text { form, reads: seen.reads.into() })
    }

    /// The states it may read.
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// The text, if it holds no expression.
    pub fn as_literal(&self) -> Option<&str> {
        match &self.form {
            Form::Literal(text) => Some(text),
            _ => None,
        }
    }

    /// The fixed text that it begins with.
    pub fn beginning(&self) -> &str {
        match &self.form {
            Form::Literal(text) => text,
            Form::Pieces(pieces) => match pieces.first() {
                Some(Piece::Raw(text)) => text,
                _ => "",
            },
            Form::Template(..) => "",
        }
    }

    /// What it becomes; if it cannot be rendered, why and where. Cut at [`TEXT_BYTES_MAX`].
    pub fn render(&self, scene: &Arc<Scene>) -> Result<String, String> {
        match &self.form {
            Form::Literal(text) => Ok(text.to_string()),
            Form::Template(source, place) => render_template(source, place, scene),
            Form::Pieces(pieces) => {
                let mut text = String::new();
                for piece in pieces {
                    piece.render(scene, &mut text)?;
                    if text.len() > TEXT_BYTES_MAX {
                        cut(&mut text, TEXT_BYTES_MAX);
                        break;
                    }
                }
                Ok(text)
            }
        }
    }

    /// Its value: a text that is one single expression keeps the expression's type.
    pub fn value(&self, scene: &Arc<Scene>) -> Result<Json, String> {
        if let Form::Pieces(pieces) = &self.form
            && let [piece @ (Piece::Field { .. } | Piece::Expr { .. })] = &**pieces
        {
            let value = piece.evaluate(scene)?;
            return serde_json::to_value(&value).map_err(|error| error.to_string());
        }
        self.render(scene).map(Json::String)
    }
}

impl Piece {
    fn evaluate(&self, scene: &Arc<Scene>) -> Result<Value, String> {
        let (value, source, place) = match self {
            Piece::Raw(text) => return Ok(Value::from(&**text)),
            Piece::Field { path, source, place } => (Ok(scene.path(path)), source, place),
            Piece::Expr { run, source, place } => (run.0.eval(scene.context()), source, place),
        };
        match value {
            Ok(value) if value.is_undefined() => Err(format!("`{source}` is undefined, {place}")),
            Ok(value) => Ok(value),
            Err(error) => Err(runtime_error(&error, source, place)),
        }
    }

    fn render(&self, scene: &Arc<Scene>, to: &mut String) -> Result<(), String> {
        use fmt::Write as _;
        if let Piece::Raw(text) = self {
            to.push_str(text);
            return Ok(());
        }
        let value = self.evaluate(scene)?;
        match value.as_str() {
            Some(text) => to.push_str(text),
            None => write!(to, "{value}").map_err(|_| "could not be written".to_string())?,
        }
        Ok(())
    }
}

/// The text as raw pieces and expressions; `None` if it has statements.
fn pieces(at: Cursor<'_>, source: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut opened = None;
    for token in tokenize(source, false, Default::default()) {
        let (token, span) = token.ok()?;
        match token {
            Token::TemplateData(raw) => pieces.push(Piece::Raw(raw.into())),
            Token::VariableStart => opened = Some(span.end_offset as usize),
            Token::VariableEnd => {
                let range = trimmed(source, opened.take()?..span.start_offset as usize);
                pieces.push(piece(at, source, range)?);
            }
            Token::BlockStart => return None,
            _ => {}
        }
    }
    Some(pieces)
}

fn piece(at: Cursor<'_>, whole: &str, range: Range<usize>) -> Option<Piece> {
    let source: Box<str> = whole[range.clone()].into();
    let place = Place::new(at.reader().file(), at.offset_in_file(range.start));
    let expr = parse_expr(&source).ok()?;
    let all = 0..source.len();
    let fact = names::look_at_expr(&source, &expr).facts.into_iter().find(|f| f.range == all);
    if let Some(path) = fact.and_then(|fact| fact.path) {
        let path = path.into_iter().map(String::into_boxed_str).collect();
        return Some(Piece::Field { path, source, place });
    }
    let run = TEXTS.compile_expression_owned(source.to_string()).ok()?;
    Some(Piece::Expr { run: Compiled(run), source, place })
}

/// Takes bytes up to the limit, then refuses more.
struct Capped(Vec<u8>);

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() > TEXT_BYTES_MAX {
            return Err(io::Error::other("the text is long enough"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn render_template(source: &str, place: &Place, scene: &Arc<Scene>) -> Result<String, String> {
    let mut out = Capped(Vec::new());
    let template = TEXTS.template_from_named_str("text", source);
    let done = template.and_then(|it| it.render_captured_to(scene.context(), &mut out).map(drop));
    match done {
        Err(error) if error.kind() != ErrorKind::WriteFailure => {
            Err(runtime_error(&error, source, place))
        }
        _ => {
            let mut text = String::from_utf8_lossy(&out.0).into_owned();
            cut(&mut text, TEXT_BYTES_MAX);
            Ok(text)
        }
    }
}

/// Cuts a text to so many bytes, between characters.
pub(super) fn cut(text: &mut String, bytes_max: usize) {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// Why a template failed, in words.
fn runtime_error(error: &Error, source: &str, place: &Place) -> String {
    if error.kind() == ErrorKind::UndefinedError {
        let part = error.range().and_then(|range| source.get(range)).unwrap_or(source);
        return format!("`{}` is undefined, {place}", part.trim());
    }
    format!("`{source}`: {}, {place}", plain(error))
}

/// The error without the engine's own file names.
fn plain(error: &Error) -> String {
    match error.detail() {
        Some(detail) => detail.to_string(),
        None => error.kind().to_string(),
    }
}

/// Notes what the names say; whether nothing was wrong.
fn note(at: Cursor<'_>, shift: usize, seen: &Seen) -> bool {
    for (range, message, help) in &seen.wrong {
        let range = file_range(at, shift, range);
        match help {
            Some(help) => at.reader().wrong_help(range, message.clone(), help.clone()),
            None => at.reader().wrong(range, message.clone()),
        }
    }
    seen.wrong.is_empty()
}

fn syntax_problem(at: Cursor<'_>, source: &str, shift: usize, error: &Error) {
    let end = source.trim_end().len();
    let range = error.range().unwrap_or(end..end);
    // At the end of the text there is nothing to point at but its last character.
    let range = if range.start >= end && end > 0 { last_char(&source[..end])..end } else { range };
    let message = format!("the expression is not understood: {}", plain(error));
    at.reader().wrong(file_range(at, shift, &range), message);
}

fn last_char(text: &str) -> usize {
    text.char_indices().next_back().map_or(0, |(at, _)| at)
}

fn file_range(at: Cursor<'_>, shift: usize, range: &Range<usize>) -> Range<usize> {
    let start = at.offset_in_file(shift + range.start);
    let end = at.offset_in_file(shift + range.end.max(range.start + 1) - 1) + 1;
    start..end.max(start)
}
