//! Walks an expression's syntax tree before it ever runs: unknown variables, functions, filters
//! and tests are found at load, since the engine would only find them at the moment they matter.
//! On the way it collects which facts an expression reads, for explanations.

use std::collections::HashSet;
use std::ops::Range;

use minijinja::machinery::{Span, ast};

use super::scene::{EVENT_FIELDS, FUNCTIONS, parse_clock_time};
use crate::node::nearest;

/// minijinja's filters by name; a test holds the list against the engine.
const FILTERS: &str = "abs attr batch bool capitalize chain count d default dictsort e escape \
    first float format groupby indent int items join last length lines list lower map max min \
    pprint reject rejectattr replace reverse round safe select selectattr slice sort split string \
    sum title tojson trim unique upper zip";
/// minijinja's tests by name; likewise.
const TESTS: &str = "boolean defined divisibleby endingwith eq equalto escaped even false filter \
    float ge greaterthan gt in int integer iterable le lessthan lower lt mapping ne none number \
    odd safe sameas sequence startingwith string test true undefined upper";

/// What an expression reads, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Offsets in the expression's text, message, advice.
    pub wrong: Vec<(Range<usize>, String, Option<String>)>,
    /// The facts it reads, each once.
    pub facts: Vec<Fact>,
    /// The states it reads.
    pub reads: Vec<Read>,
}

/// A state that an expression reads.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Read {
    Path(Box<str>),
    /// The path is known only when the expression runs.
    Computed,
}

/// One fact that an expression reads.
#[derive(Debug, PartialEq)]
pub(super) struct Fact {
    /// Its text.
    pub range: Range<usize>,
    /// The names after `event.`, if it is a field of the event.
    pub path: Option<Vec<String>>,
    /// Whether the expression is prepared for it to be undefined.
    pub guarded: bool,
}

/// Looks at one expression.
pub(super) fn look_at_expr(source: &str, expr: &ast::Expr<'_>) -> Seen {
    let mut walker = Walker::new(source);
    walker.expr(expr, false);
    walker.seen
}

/// Looks at a whole template.
pub(super) fn look_at_template(source: &str, template: &ast::Stmt<'_>) -> Seen {
    let mut walker = Walker::new(source);
    walker.stmt(template);
    walker.seen
}

struct Walker<'s> {
    source: &'s str,
    scopes: Vec<HashSet<String>>,
    seen: Seen,
}

impl<'s> Walker<'s> {
    fn new(source: &'s str) -> Walker<'s> {
        Walker { source, scopes: vec![HashSet::new()], seen: Seen::default() }
    }

    fn wrong(&mut self, range: Range<usize>, message: String, help: Option<String>) {
        self.seen.wrong.push((range, message, help));
    }

    fn unknown<'k>(
        &mut self,
        range: Range<usize>,
        what: &str,
        name: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) {
        let help = nearest(name, known).map(|near| format!("did you mean `{near}`?"));
        self.wrong(range, format!("{what} `{name}` is not known"), help);
    }

    fn is_local(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| scope.contains(name))
    }

    fn fact(&mut self, range: Range<usize>, path: Option<Vec<String>>, guarded: bool) {
        let text = self.source.get(range.clone());
        let same = |fact: &&mut Fact| self.source.get(fact.range.clone()) == text;
        match self.seen.facts.iter_mut().find(same) {
            Some(fact) => fact.guarded &= guarded,
            None => self.seen.facts.push(Fact { range, path, guarded }),
        }
    }

    /// `guarded`: the surrounding expression is prepared for this to be undefined.
    fn expr(&mut self, expr: &ast::Expr<'_>, guarded: bool) {
        if let Some(path) = event_path(expr).filter(|_| !self.is_local("event")) {
            self.event_field(expr, path, guarded);
            return;
        }
        // Of a large value the part that is read is the fact.
        if let Some((path, names)) = state_path(expr)
            && !names.is_empty()
            && !self.is_local("state")
        {
            self.fact(whole(expr), None, guarded);
            self.seen.reads.push(Read::Path(path.into()));
            return;
        }
        match expr {
            ast::Expr::Var(var) => self.variable(var.id, range(var.span())),
            ast::Expr::Const(_) => {}
            ast::Expr::Slice(slice) => {
                self.expr(&slice.expr, guarded);
                for part in [&slice.start, &slice.stop, &slice.step].into_iter().flatten() {
                    self.expr(part, false);
                }
            }
            ast::Expr::UnaryOp(op) => self.expr(&op.expr, guarded),
            ast::Expr::BinOp(op) => {
                self.expr(&op.left, guarded);
                self.expr(&op.right, guarded);
            }
            ast::Expr::Compare(compare) => {
                self.expr(&compare.expr, guarded);
                compare.ops.iter().for_each(|op| self.expr(&op.expr, guarded));
            }
            ast::Expr::IfExpr(choice) => {
                self.expr(&choice.test_expr, guarded);
                self.expr(&choice.true_expr, guarded);
                if let Some(otherwise) = &choice.false_expr {
                    self.expr(otherwise, guarded);
                }
            }
            ast::Expr::Filter(filter) => self.filter(filter, guarded),
            ast::Expr::Test(test) => self.test(test, guarded),
            ast::Expr::GetAttr(attr) => self.expr(&attr.expr, guarded),
            ast::Expr::GetItem(item) => {
                self.expr(&item.expr, guarded);
                self.expr(&item.subscript_expr, false);
            }
            ast::Expr::Call(call) => self.call(call, guarded),
            ast::Expr::List(list) => list.items.iter().for_each(|item| self.expr(item, false)),
            ast::Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.expr(item, false)),
            ast::Expr::Map(map) => {
                map.keys.iter().chain(&map.values).for_each(|item| self.expr(item, false));
            }
        }
    }

    fn event_field(&mut self, expr: &ast::Expr<'_>, path: Vec<String>, guarded: bool) {
        let range = whole(expr);
        match path.first() {
            Some(first) if !EVENT_FIELDS.contains(&first.as_str()) => {
                let known = EVENT_FIELDS;
                let message = format!("an event has no `{first}`");
                let near = nearest(first, known).map(|near| format!("did you mean `{near}`?"));
                let help =
                    near.unwrap_or_else(|| format!("its own fields are in `event.data.{first}`"));
                self.wrong(range, message, Some(help));
            }
            Some(first) if path.len() > 1 || first != "data" => {
                self.fact(range, Some(path), guarded);
            }
            _ => {}
        }
    }

    fn variable(&mut self, name: &str, range: Range<usize>) {
        if name == "event" || FUNCTIONS.contains(&name) || self.is_local(name) {
            return;
        }
        if name == "trigger" || name == "data" {
            let help = Some("what happened is `event`; its fields are in `event.data`".to_string());
            self.wrong(range, format!("the variable `{name}` is not known"), help);
            return;
        }
        self.unknown(range, "the variable", name, FUNCTIONS.into_iter().chain(["event"]));
    }

    fn filter(&mut self, filter: &ast::Spanned<ast::Filter<'_>>, guarded: bool) {
        if !FILTERS.split(' ').any(|known| known == filter.name) {
            let range = self.last_word(&range(filter.span()), filter.name);
            self.unknown(range, "the filter", filter.name, FILTERS.split(' '));
        }
        let guards = matches!(filter.name, "default" | "d");
        if let Some(expr) = &filter.expr {
            self.expr(expr, guarded || guards);
        }
        self.args(&filter.args);
    }

    fn test(&mut self, test: &ast::Spanned<ast::Test<'_>>, guarded: bool) {
        let name: String = test.name.chars().filter(|c| !c.is_whitespace()).collect();
        let operator = !name.starts_with(|first: char| first.is_alphabetic());
        if !operator && !TESTS.split_whitespace().any(|known| known == name) {
            let range = self.last_word(&range(test.span()), test.name);
            self.unknown(range, "the test", &name, TESTS.split_whitespace());
        }
        self.expr(&test.expr, guarded || matches!(&*name, "defined" | "undefined"));
        self.args(&test.args);
    }

    fn call(&mut self, call: &ast::Spanned<ast::Call<'_>>, guarded: bool) {
        match &call.expr {
            ast::Expr::Var(var) if !self.is_local(var.id) => {
                if FUNCTIONS.contains(&var.id) {
                    self.function(var.id, call, guarded);
                } else {
                    self.unknown(range(var.span()), "the function", var.id, FUNCTIONS);
                }
            }
            ast::Expr::GetAttr(attr) => self.expr(&attr.expr, guarded),
            other => self.expr(other, guarded),
        }
        self.args(&call.args);
    }

    fn function(&mut self, name: &str, call: &ast::Spanned<ast::Call<'_>>, guarded: bool) {
        if !matches!(name, "range" | "dict" | "namespace") {
            self.fact(call_range(call), None, guarded);
        }
        if matches!(name, "state" | "states" | "is_state" | "state_age" | "state_trust") {
            self.seen.reads.push(first_path(call));
        }
        let wanted = match name {
            "state" | "states" | "state_age" | "state_trust" => 1,
            "is_state" | "between" => 2,
            "now" => 0,
            _ => return,
        };
        let plain = call.args.iter().filter(|arg| matches!(arg, ast::CallArg::Pos(_))).count();
        if plain != wanted || call.args.len() != wanted {
            let values = if wanted == 1 { "value" } else { "values" };
            self.wrong(call_range(call), format!("`{name}` takes {wanted} {values}"), None);
        }
        for arg in call.args.iter().filter(|_| name == "between") {
            let ast::CallArg::Pos(ast::Expr::Const(time)) = arg else { continue };
            if time.value.as_str().and_then(parse_clock_time).is_none() {
                let message = format!("{} is no time of day", time.value);
                let help = Some("write it as \"23:00\"".to_string());
                self.wrong(range(time.span()), message, help);
            }
        }
    }

    fn args(&mut self, args: &[ast::CallArg<'_>]) {
        for arg in args {
            match arg {
                ast::CallArg::Pos(expr)
                | ast::CallArg::Kwarg(_, expr)
                | ast::CallArg::PosSplat(expr)
                | ast::CallArg::KwargSplat(expr) => self.expr(expr, false),
            }
        }
    }

    fn body(&mut self, body: &[ast::Stmt<'_>]) {
        self.scopes.push(HashSet::new());
        self.statements(body);
        self.scopes.pop();
    }

    fn statements(&mut self, body: &[ast::Stmt<'_>]) {
        body.iter().for_each(|stmt| self.stmt(stmt));
    }

    fn stmt(&mut self, stmt: &ast::Stmt<'_>) {
        match stmt {
            ast::Stmt::Template(template) => self.statements(&template.children),
            ast::Stmt::EmitExpr(emit) => self.expr(&emit.expr, false),
            ast::Stmt::EmitRaw(_) => {}
            ast::Stmt::ForLoop(each) => self.for_loop(each),
            ast::Stmt::IfCond(choice) => {
                self.expr(&choice.expr, false);
                // What a branch sets is visible after it.
                self.statements(&choice.true_body);
                self.statements(&choice.false_body);
            }
            ast::Stmt::WithBlock(with) => {
                self.scopes.push(HashSet::new());
                for (target, expr) in &with.assignments {
                    self.expr(expr, false);
                    self.define(target);
                }
                self.statements(&with.body);
                self.scopes.pop();
            }
            ast::Stmt::Set(set) => {
                self.expr(&set.expr, false);
                self.define(&set.target);
            }
            ast::Stmt::SetBlock(set) => {
                self.body(&set.body);
                self.define(&set.target);
            }
            ast::Stmt::AutoEscape(block) => self.body(&block.body),
            ast::Stmt::FilterBlock(block) => {
                self.expr(&block.filter, false);
                self.body(&block.body);
            }
            ast::Stmt::Do(action) => self.call(&action.call, false),
            ast::Stmt::Block(s) => self.refused("block", s.span()),
            ast::Stmt::Import(s) => self.refused("import", s.span()),
            ast::Stmt::FromImport(s) => self.refused("from", s.span()),
            ast::Stmt::Extends(s) => self.refused("extends", s.span()),
            ast::Stmt::Include(s) => self.refused("include", s.span()),
            ast::Stmt::Macro(s) => self.refused("macro", s.span()),
            ast::Stmt::CallBlock(s) => self.refused("call", s.span()),
        }
    }

    fn for_loop(&mut self, each: &ast::ForLoop<'_>) {
        self.expr(&each.iter, false);
        self.scopes.push(HashSet::from(["loop".to_string()]));
        self.define(&each.target);
        if let Some(filter) = &each.filter_expr {
            self.expr(filter, false);
        }
        self.statements(&each.body);
        self.scopes.pop();
        self.body(&each.else_body);
    }

    fn define(&mut self, target: &ast::Expr<'_>) {
        match target {
            ast::Expr::Var(var) => {
                if let Some(scope) = self.scopes.last_mut() {
                    scope.insert(var.id.to_string());
                }
            }
            ast::Expr::List(list) => list.items.iter().for_each(|item| self.define(item)),
            ast::Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.define(item)),
            other => self.expr(other, false),
        }
    }

    fn refused(&mut self, tag: &str, span: Span) {
        let help = Some("a rule's text stands alone".to_string());
        self.wrong(range(span), format!("`{{% {tag} %}}` cannot be used here"), help);
    }

    /// The last place in `range` where this word stands.
    fn last_word(&self, range: &Range<usize>, word: &str) -> Range<usize> {
        let text = self.source.get(range.clone()).unwrap_or("");
        match text.rfind(word) {
            Some(at) => range.start + at..range.start + at + word.len(),
            None => range.clone(),
        }
    }
}

/// The path that a function of states is asked about.
fn first_path(call: &ast::Spanned<ast::Call<'_>>) -> Read {
    match call.args.first() {
        Some(ast::CallArg::Pos(ast::Expr::Const(path))) => {
            path.value.as_str().map_or(Read::Computed, |path| Read::Path(path.into()))
        }
        _ => Read::Computed,
    }
}

fn range(span: Span) -> Range<usize> {
    span.start_offset as usize..span.end_offset as usize
}

/// The bytes of an expression with all that it is applied to: the parser's own span of `a.b`
/// begins at the dot.
fn whole(expr: &ast::Expr<'_>) -> Range<usize> {
    let first = match expr {
        ast::Expr::GetAttr(attr) => whole(&attr.expr).start,
        ast::Expr::GetItem(item) => whole(&item.expr).start,
        ast::Expr::Call(call) => whole(&call.expr).start,
        other => range(other.span()).start,
    };
    first..range(expr.span()).end
}

fn call_range(call: &ast::Spanned<ast::Call<'_>>) -> Range<usize> {
    whole(&call.expr).start..range(call.span()).end
}

/// The names after `event`, if the expression is nothing but a way into the event.
pub(super) fn event_path(expr: &ast::Expr<'_>) -> Option<Vec<String>> {
    match expr {
        ast::Expr::Var(var) if var.id == "event" => Some(Vec::new()),
        ast::Expr::GetAttr(attr) => {
            let mut path = event_path(&attr.expr)?;
            path.push(attr.name.to_string());
            Some(path)
        }
        ast::Expr::GetItem(item) => {
            let mut path = event_path(&item.expr)?;
            let ast::Expr::Const(key) = &item.subscript_expr else { return None };
            path.push(key.value.as_str()?.to_string());
            Some(path)
        }
        _ => None,
    }
}

/// The path, if the expression is nothing but this function with a fixed path.
pub(super) fn called_with(expr: &ast::Expr<'_>, name: &str) -> Option<String> {
    let ast::Expr::Call(call) = expr else { return None };
    let ast::Expr::Var(function) = &call.expr else { return None };
    let [ast::CallArg::Pos(ast::Expr::Const(path))] = &*call.args else { return None };
    path.value.as_str().filter(|_| function.id == name).map(str::to_string)
}

/// The path and the names after it, if the expression is nothing but `state("path")` or a way into
/// its value.
pub(super) fn state_path(expr: &ast::Expr<'_>) -> Option<(String, Vec<String>)> {
    match expr {
        ast::Expr::Call(_) => Some((called_with(expr, "state")?, Vec::new())),
        ast::Expr::GetAttr(attr) => {
            let (path, mut names) = state_path(&attr.expr)?;
            names.push(attr.name.to_string());
            Some((path, names))
        }
        ast::Expr::GetItem(item) => {
            let (path, mut names) = state_path(&item.expr)?;
            let ast::Expr::Const(key) = &item.subscript_expr else { return None };
            names.push(key.value.as_str()?.to_string());
            Some((path, names))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::scene::TEXTS;
    use minijinja::ErrorKind;

    #[test]
    fn the_lists_are_the_engines_own() {
        let known = |name: &str| match TEXTS.empty_state().apply_filter(name, &[]) {
            Err(error) => error.kind() != ErrorKind::UnknownFilter,
            Ok(_) => true,
        };
        assert!(FILTERS.split_whitespace().all(known));
        assert!(!known("urlize"));
        let known = |name: &str| match TEXTS.empty_state().perform_test(name, &[]) {
            Err(error) => error.kind() != ErrorKind::UnknownTest,
            Ok(_) => true,
        };
        assert!(TESTS.split_whitespace().all(known));
    }

    #[test]
    fn facts_are_named_as_they_are_written() {
        let source =
            r#"state("a/b") != "x" and (event.data.n | default(0)) > 1 and event.data['k'].z"#;
        let expr = minijinja::machinery::parse_expr(source).unwrap();
        let seen = look_at_expr(source, &expr);
        let facts: Vec<_> =
            seen.facts.iter().map(|f| (&source[f.range.clone()], f.guarded)).collect();
        let wanted =
            [("state(\"a/b\")", false), ("event.data.n", true), ("event.data['k'].z", false)];
        assert_eq!(facts, wanted);
        assert!(seen.wrong.is_empty());
    }
}
