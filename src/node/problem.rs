//! What is wrong in a file that a person wrote, and exactly where: one [`Problem`] points at one
//! place and draws it. It knows no grammar; the decoders and the rule compiler fill it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level as Tone, Origin, Renderer, Snippet};

/// The most problems kept: a file that has more is usually not the file that was meant, and
/// nobody reads further.
pub const PROBLEMS_MAX: usize = 100;

/// Bytes of a line that a drawing shows on either side of the place; a file may be one long line.
const EXCERPT_SIDE_BYTES: usize = 200;

/// How the names of those settings end that hold a secret.
const SECRET_KEY: &str = "secret";

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name as the person knows it: `rules/doorbell.yaml`.
    pub path: Arc<str>,
    /// Its text. A byte order mark at the start is allowed.
    pub text: Arc<str>,
    /// Where each line starts.
    lines: Arc<[usize]>,
}

impl SourceFile {
    /// A file from its text.
    pub fn new(path: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> SourceFile {
        let text: Arc<str> = text.into();
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        SourceFile { path: path.into(), text, lines }
    }

    /// A file from its bytes; a problem if they are no UTF-8.
    pub fn from_bytes(path: impl Into<Arc<str>>, bytes: &[u8]) -> Result<SourceFile, Box<Problem>> {
        let path = path.into();
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(SourceFile::new(path, text)),
            Err(error) => {
                let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
                let end = good.len();
                let file = SourceFile::new(path, good);
                let problem = Problem::error(&file, end..end, "this byte is not UTF-8 text");
                Err(Box::new(problem.help("save the file as UTF-8")))
            }
        }
    }

    /// Line and column of a byte offset, both counted from 1, the column in characters. An offset
    /// inside a character counts as its start; a byte order mark takes no column.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let before = &self.text.as_bytes()[self.line_start(offset)..offset];
        // Bytes 0b10xxxxxx continue a character; all others begin one.
        let begun = before.iter().filter(|byte| (**byte & 0xc0) != 0x80).count();
        let inside = !self.text.is_char_boundary(offset);
        (line, begun + 1 - usize::from(inside))
    }

    /// `rules/a.yaml:7:9`, as texts name a place.
    pub fn place(&self, offset: usize) -> String {
        let (line, column) = self.line_column(offset);
        format!("{}:{line}:{column}", self.path)
    }

    /// Where the text begins: after a byte order mark.
    pub(crate) fn content_start(&self) -> usize {
        if self.text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 }
    }

    fn line_start(&self, offset: usize) -> usize {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line.saturating_sub(1)];
        if start == 0 { self.content_start().min(offset) } else { start }
    }
}

/// How much a problem matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The file cannot be used.
    Error,
    /// The file can be used; somebody should look.
    Warning,
}

/// One thing that is wrong in one place. It carries the line it points at, so it can be shown
/// without the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file's name.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// The bytes concerned.
    pub range: Range<usize>,
    /// Whether the file can still be used.
    pub level: Level,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    excerpt: String,
    marked: Range<usize>,
    /// Whether the excerpt begins after the start of its line.
    cut: bool,
}

impl Problem {
    /// A problem that makes the file unusable.
    pub fn error(file: &SourceFile, range: Range<usize>, message: impl Into<String>) -> Problem {
        let range = clamp(&file.text, range);
        let (line, column) = file.line_column(range.start);
        let (excerpt, marked, cut) = excerpt(file, &range);
        Problem {
            file: Arc::clone(&file.path),
            line,
            column,
            range,
            level: Level::Error,
            message: message.into(),
            help: None,
            excerpt,
            marked,
            cut,
        }
    }

    /// A problem with which the file can still be used.
    pub fn warning(file: &SourceFile, range: Range<usize>, message: impl Into<String>) -> Problem {
        Problem { level: Level::Warning, ..Problem::error(file, range, message) }
    }

    /// The same problem with advice.
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// The problem with a drawing of its line, for a terminal without colours.
    pub fn render(&self) -> String {
        self.draw(&Renderer::plain())
    }

    /// The problem with a drawing of its line, for a terminal with colours.
    pub fn render_styled(&self) -> String {
        self.draw(&Renderer::styled())
    }

    fn draw(&self, renderer: &Renderer) -> String {
        let tone = match self.level {
            Level::Error => Tone::ERROR,
            Level::Warning => Tone::WARNING,
        };
        let mark = AnnotationKind::Primary.span(self.marked.clone());
        let snippet = Snippet::source(self.excerpt.as_str()).line_start(self.line).annotation(mark);
        let title = tone.primary_title(self.message.as_str());
        // The drawing counts columns itself, which is right only for a line shown from its start.
        let mut group = if self.cut {
            let origin = Origin::path(&*self.file).line(self.line).char_column(self.column);
            title.element(origin).element(snippet)
        } else {
            title.element(snippet.path(&*self.file))
        };
        if let Some(help) = &self.help {
            group = group.element(Tone::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// Everything found wrong, sorted by file and place.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", .list.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems {
    list: Vec<Problem>,
    /// Those beyond [`PROBLEMS_MAX`], which are only counted.
    more: usize,
}

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// Adds all of another list.
    pub fn extend(&mut self, other: Problems) {
        self.more += other.more;
        other.list.into_iter().for_each(|problem| self.push(problem));
    }

    /// Sorts by file, then place; and drops a problem said twice of one place.
    pub fn sort(&mut self) {
        self.list.sort_by(|a, b| {
            (&a.file, a.range.start, a.level, &a.message).cmp(&(
                &b.file,
                b.range.start,
                b.level,
                &b.message,
            ))
        });
        self.list.dedup_by(|a, b| a.file == b.file && a.range == b.range && a.message == b.message);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether one of them makes a file unusable.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|problem| problem.level == Level::Error)
    }

    /// The problems that are kept.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// How many there are, with those that are only counted.
    pub fn len(&self) -> usize {
        self.list.len() + self.more
    }

    /// All of them with drawings, then how many were left out.
    pub fn render(&self) -> String {
        self.render_with(Problem::render)
    }

    /// As [`Problems::render`], with colours.
    pub fn render_styled(&self) -> String {
        self.render_with(Problem::render_styled)
    }

    fn render_with(&self, one: impl Fn(&Problem) -> String) -> String {
        let mut text = String::new();
        for problem in &self.list {
            text.push_str(&one(problem));
            text.push_str("\n\n");
        }
        if self.more > 0 {
            text.push_str(&format!("… and {} more\n", self.more));
        }
        text
    }
}

impl FromIterator<Problem> for Problems {
    fn from_iter<I: IntoIterator<Item = Problem>>(from: I) -> Problems {
        let mut problems = Problems::default();
        from.into_iter().for_each(|problem| problems.push(problem));
        problems
    }
}

/// The name among `known` that was probably meant: at most a third of its letters differ.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    known
        .into_iter()
        .filter(|candidate| *candidate != name)
        .map(|candidate| {
            (strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()), candidate)
        })
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A range that lies in the text, on character boundaries, and marks at least one character
/// unless the text ends there.
fn clamp(text: &str, range: Range<usize>) -> Range<usize> {
    let start = floor(text, range.start);
    let end = floor(text, range.end.max(start));
    if end > start {
        return start..end;
    }
    let next = text[start..].chars().next().map_or(0, char::len_utf8);
    start..start + next
}

fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// The first line of the range, cut around it if it is long; where the range is in it; and
/// whether its start was cut off.
fn excerpt(file: &SourceFile, range: &Range<usize>) -> (String, Range<usize>, bool) {
    let text = &*file.text;
    let line_start = file.line_start(range.start).min(range.start);
    let rest = &text[range.start..];
    let line_end = range.start + rest.find(['\n', '\r']).unwrap_or(rest.len());
    let from = line_start.max(floor(text, range.start.saturating_sub(EXCERPT_SIDE_BYTES)));
    let to = line_end.min(floor(text, range.start + 2 * EXCERPT_SIDE_BYTES));
    let end = range.end.clamp(range.start, to.max(range.start));
    let shown = hide_secrets(&text[from..to.max(from)]);
    (shown, range.start - from..end - from, from > line_start)
}

/// The line with what stands behind `…secret =` blotted out: a drawing may end up in a log. Takes
/// as many bytes as before, so that marks stay where they are.
fn hide_secrets(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(SECRET_KEY) {
        let (before, after) = rest.split_at(at + SECRET_KEY.len());
        let value = after.trim_start_matches([' ', '\t', '"', '\'', '=']);
        let is_given = after.trim_start_matches([' ', '\t', '"', '\'']).starts_with('=');
        // `{ env = "…" }` names a place, not a secret.
        let secret =
            if is_given && !value.starts_with('{') { secret_bytes(after, value) } else { 0 };
        shown.push_str(before);
        shown.push_str(&after[..after.len() - value.len()]);
        shown.push_str(&"*".repeat(secret));
        rest = &value[secret..];
    }
    shown + rest
}

/// How much of `value` is the secret: up to the quote that ends it, else up to the end of a word.
fn secret_bytes(after: &str, value: &str) -> usize {
    let quote = after[..after.len() - value.len()].chars().last().filter(|c| "\"'".contains(*c));
    let ends = |c: char| quote.map_or(" \t,}#".contains(c), |quote| c == quote);
    value.find(ends).unwrap_or(value.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_count_characters_not_bytes() {
        let file = SourceFile::new("a", "\u{feff}é: 1\r\n  🔑: x\n");
        assert_eq!(file.line_column(3), (1, 1));
        assert_eq!(file.line_column(file.text.find('1').unwrap()), (1, 4));
        assert_eq!(file.line_column(file.text.find('x').unwrap()), (2, 6));
    }

    #[test]
    fn a_problem_draws_its_line() {
        let file = SourceFile::new("rules/a.yaml", "rules:\n  - opne: é\n");
        let problem =
            Problem::error(&file, 11..15, "`opne` is not known").help("did you mean `open`?");
        insta::assert_snapshot!(problem.render(), @r"
        error: `opne` is not known
         --> rules/a.yaml:2:5
          |
        2 |   - opne: é
          |     ^^^^
          |
          = help: did you mean `open`?
        ");
        let line = "rules/a.yaml:2:5: `opne` is not known (did you mean `open`?)";
        assert_eq!(problem.to_string(), line);
    }

    #[test]
    fn a_secret_is_not_drawn() {
        for (line, shown) in [
            ("client_secret = \"s3c,r3t\"", "client_secret = \"*******\""),
            ("client_secret = 's3cret", "client_secret = '******"),
            ("h = { client_secret=12, x = 1 }", "h = { client_secret=**, x = 1 }"),
            ("\"client_secret\" = \"é\"", "\"client_secret\" = \"**\""),
            ("client_secret = { env = \"NAME\" }", "client_secret = { env = \"NAME\" }"),
            ("client_secret = \"\" # secret = x", "client_secret = \"\" # secret = *"),
            ("client_secret", "client_secret"),
            ("# a secret is none", "# a secret is none"),
        ] {
            assert_eq!(hide_secrets(line), shown);
            assert_eq!(hide_secrets(line).len(), line.len());
        }
    }

    #[test]
    fn the_nearest_name_is_near() {
        assert_eq!(nearest("famly", ["family", "ana"]), Some("family"));
        assert_eq!(nearest("xyz", ["family", "ana"]), None);
        assert_eq!(nearest("title", ["tile", "titel"]), Some("tile"));
    }

    #[test]
    fn bytes_that_are_no_text_have_a_place() {
        let problem = SourceFile::from_bytes("a", b"x: 1\ny: \xff").unwrap_err();
        assert_eq!((problem.line, problem.column), (2, 4));
    }

    proptest! {
        #[test]
        fn any_range_of_any_text_can_be_shown(text in ".{0,80}", a in 0usize..99, b in 0usize..99) {
            let file = SourceFile::new("a", text);
            Problem::error(&file, a..b, "x").render();
            file.line_column(a);
        }
    }
}
