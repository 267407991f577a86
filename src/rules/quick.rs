//! The conditions that most rules have (`event.data.n > 3 or not state("x") != "away"`)
//! without the expression machine: a tenth of the time and of the memory. Whatever is not of this
//! form goes through the machine; a test holds both to the same answers, but for what is undefined:
//! here it is neither less nor more than anything.

use std::sync::Arc;

use minijinja::Value;
use minijinja::machinery::ast::{BinOpKind, CompareOpKind, Expr, UnaryOpKind};

use super::names::{called_with, event_path, state_path};
use super::scene::Scene;

/// A condition of comparisons, joined by `and`, `or` and `not`.
#[derive(Debug)]
pub(super) enum Quick {
    One(Comparison),
    Not(Box<Quick>),
    /// Both, or if not `and`, either.
    Two(Box<[Quick; 2]>, Joined),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joined {
    And,
    Or,
}

/// One comparison, or one value that is true or not.
#[derive(Debug)]
pub(super) struct Comparison {
    left: Operand,
    compared: Option<(Operator, Operand)>,
}

#[derive(Debug, Clone, Copy)]
enum Operator {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug)]
enum Operand {
    Field(Vec<Box<str>>),
    /// A state, and names inside its value.
    State(Box<str>, Box<[Box<str>]>),
    /// Seconds since a state was set.
    Age(Box<str>),
    /// A state's trust.
    Trust(Box<str>),
    Fixed(Value),
}

impl Quick {
    /// The condition in its quick form, if it has one.
    pub fn new(expr: &Expr<'_>) -> Option<Quick> {
        match expr {
            Expr::UnaryOp(op) if matches!(op.op, UnaryOpKind::Not) => {
                Some(Quick::Not(Box::new(Quick::new(&op.expr)?)))
            }
            Expr::BinOp(op) => {
                let joined = match op.op {
                    BinOpKind::ScAnd => Joined::And,
                    BinOpKind::ScOr => Joined::Or,
                    _ => return Comparison::new(expr).map(Quick::One),
                };
                let two = [Quick::new(&op.left)?, Quick::new(&op.right)?];
                Some(Quick::Two(Box::new(two), joined))
            }
            _ => Comparison::new(expr).map(Quick::One),
        }
    }

    /// Whether it holds.
    pub fn holds(&self, scene: &Arc<Scene>) -> bool {
        match self {
            Quick::One(comparison) => comparison.holds(scene),
            Quick::Not(other) => !other.holds(scene),
            Quick::Two(two, Joined::And) => two.iter().all(|one| one.holds(scene)),
            Quick::Two(two, Joined::Or) => two.iter().any(|one| one.holds(scene)),
        }
    }
}

impl Comparison {
    fn new(expr: &Expr<'_>) -> Option<Comparison> {
        match expr {
            Expr::BinOp(op) => {
                let operator = match op.op {
                    BinOpKind::Eq => Operator::Equal,
                    BinOpKind::Ne => Operator::Unequal,
                    BinOpKind::Lt => Operator::Less,
                    BinOpKind::Lte => Operator::LessOrEqual,
                    BinOpKind::Gt => Operator::Greater,
                    BinOpKind::Gte => Operator::GreaterOrEqual,
                    _ => return None,
                };
                Comparison::of(&op.left, operator, &op.right)
            }
            Expr::Compare(compare) => {
                let [op] = &*compare.ops else { return None };
                let operator = match op.op {
                    CompareOpKind::Eq => Operator::Equal,
                    CompareOpKind::Ne => Operator::Unequal,
                    CompareOpKind::Lt => Operator::Less,
                    CompareOpKind::Lte => Operator::LessOrEqual,
                    CompareOpKind::Gt => Operator::Greater,
                    CompareOpKind::Gte => Operator::GreaterOrEqual,
                    CompareOpKind::In | CompareOpKind::NotIn => return None,
                };
                Comparison::of(&compare.expr, operator, &op.expr)
            }
            _ => Some(Comparison { left: Operand::new(expr)?, compared: None }),
        }
    }

    fn of(left: &Expr<'_>, operator: Operator, right: &Expr<'_>) -> Option<Comparison> {
        let compared = Some((operator, Operand::new(right)?));
        Some(Comparison { left: Operand::new(left)?, compared })
    }

    fn holds(&self, scene: &Arc<Scene>) -> bool {
        let left = self.left.value(scene);
        match &self.compared {
            None => left.is_true(),
            Some((operator, right)) => {
                let right = right.value(scene);
                match operator {
                    // The engine sorts what is undefined before everything else; here it is not
                    // true that it is less than 3.
                    _ if operator.orders() && (left.is_undefined() || right.is_undefined()) => {
                        false
                    }
                    Operator::Equal => left == right,
                    Operator::Unequal => left != right,
                    Operator::Less => left < right,
                    Operator::LessOrEqual => left <= right,
                    Operator::Greater => left > right,
                    Operator::GreaterOrEqual => left >= right,
                }
            }
        }
    }
}

impl Operator {
    fn orders(self) -> bool {
        !matches!(self, Operator::Equal | Operator::Unequal)
    }
}

impl Operand {
    fn new(expr: &Expr<'_>) -> Option<Operand> {
        if let Some(path) = event_path(expr) {
            return Some(Operand::Field(path.into_iter().map(String::into_boxed_str).collect()));
        }
        match expr {
            Expr::Const(fixed) => Some(Operand::Fixed(fixed.value.clone())),
            other => {
                if let Some(path) = called_with(other, "state_age") {
                    return Some(Operand::Age(path.into()));
                }
                if let Some(path) = called_with(other, "state_trust") {
                    return Some(Operand::Trust(path.into()));
                }
                let (path, names) = state_path(other)?;
                let names = names.into_iter().map(String::into_boxed_str).collect();
                Some(Operand::State(path.into(), names))
            }
        }
    }

    fn value(&self, scene: &Arc<Scene>) -> Value {
        match self {
            Operand::Field(path) => scene.path(path),
            Operand::State(path, names) => scene.state_field(path, names),
            Operand::Age(path) => scene.state_age(path),
            Operand::Trust(path) => scene.state_trust(path),
            Operand::Fixed(value) => value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventId, Marks, Trust};
    use crate::record::{Becomes, Known, KnownChange};
    use crate::rules::scene::CONDITIONS;
    use crate::rules::{Memory, StateEntry};
    use jiff::Timestamp;
    use jiff::tz::TimeZone;
    use minijinja::machinery::parse_expr;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    fn scene(value: &Json) -> Arc<Scene> {
        let data = json!({ "x": value, "deep": { "x": value } });
        let event = Arc::new(Event {
            id: EventId::derive(["x"]),
            source: "netatmo/home".into(),
            kind: "netatmo.ring".into(),
            subject: None,
            time: None,
            received: Timestamp::UNIX_EPOCH,
            trust: Trust::Fresh,
            marks: Marks::default(),
            hops: 0,
            data: data.as_object().unwrap().clone(),
            raw: Vec::new(),
        });
        let mut memory = Memory::new();
        let at = Timestamp::UNIX_EPOCH;
        let entry = StateEntry { value: value.clone(), trust: Trust::Authentic, at };
        memory.set_state("x", entry);
        memory.apply_known(&Known {
            source: "fibaro/gate".into(),
            trust: Trust::Unverified,
            at,
            changes: vec![KnownChange {
                path: "fibaro/gate".into(),
                to: Becomes::Is(json!({ "x": value })),
            }],
        });
        Scene::new(&event, &memory, at, &TimeZone::UTC)
    }

    fn any_value() -> impl Strategy<Value = Json> {
        prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Json::from),
            (-2i64..3).prop_map(Json::from),
            (-4i64..5).prop_map(|n| json!(n as f64 / 2.0)),
            "[ab1é]{0,2}".prop_map(Json::from),
            Just(json!([])),
            Just(json!([1])),
            Just(json!({ "a": 1 })),
        ]
    }

    fn any_operand() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "event.data.x",
            "event.data['deep'].x",
            "event.data.none",
            "event.data.none.deeper",
            "event.type",
            "event.subject",
            "event.data",
            "event",
            "event.data.x.a",
            "event.type.x",
            "state('x')",
            "state('none')",
            "state('x').a",
            "state_age('x')",
            "state_age('none')",
            "state_trust('fibaro/gate')",
            "state_trust('none')",
            "state('x')['a']",
            "state('fibaro/gate').x",
            "state('fibaro/gate').x.a",
            "state('fibaro/gate')",
            "state('none').a",
            "event.caught_up",
            "1",
            "1.0",
            "0",
            "-1",
            "'a'",
            "''",
            "'1'",
            "true",
            "false",
            "none",
            "event.trust",
            "event.time",
            "event.received",
        ])
    }

    #[test]
    fn most_conditions_need_no_machine() {
        for source in [
            "event.data.x > 3 and not state('x')",
            "state('a/b')['c d'].e == 'on' or state_age('a/b') < 60",
            "not (event.caught_up or state_trust('x') != 'fresh')",
        ] {
            assert!(Quick::new(&parse_expr(source).unwrap()).is_some(), "{source}");
        }
        for source in ["event.data.x + 1 > 3", "event.data.x | lower == 'a'", "now().hour < 3"] {
            assert!(Quick::new(&parse_expr(source).unwrap()).is_none(), "{source}");
        }
    }

    /// What the machine says, but that what is undefined is neither less nor more than anything.
    fn machine(scene: &Arc<Scene>, left: &str, operator: &str, right: &str) -> bool {
        let value = |source: &str| {
            CONDITIONS.compile_expression(source).unwrap().eval(scene.context()).unwrap()
        };
        let answer = value(&format!("{left} {operator} {right}")).is_true();
        let orders = matches!(operator, "<" | "<=" | ">" | ">=");
        answer && !(orders && (value(left).is_undefined() || value(right).is_undefined()))
    }

    fn any_comparison() -> impl Strategy<Value = (&'static str, &'static str, &'static str)> {
        let operators = vec!["==", "!=", "<", "<=", ">", ">=", ""];
        (any_operand(), prop::sample::select(operators), any_operand()).prop_map(
            |(left, operator, right)| {
                (left, operator, if operator.is_empty() { "" } else { right })
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_quick_way_answers_like_the_machine(
            value in any_value(),
            (left, operator, right) in any_comparison(),
            not in prop::sample::select(vec!["", "not ", "not not "]),
        ) {
            let source = format!("{not}{left} {operator} {right}");
            let quick = Quick::new(&parse_expr(&source).unwrap());
            let Some(quick) = quick else { return Ok(()) };
            let scene = scene(&value);
            let wanted = machine(&scene, left, operator, right) != (not == "not ");
            let trust = scene.trust();
            scene.begin();
            prop_assert_eq!(quick.holds(&scene), wanted, "{}", source);
            prop_assert_eq!(scene.trust(), trust);
        }

        #[test]
        fn joined_conditions_answer_like_their_parts(
            value in any_value(),
            one in any_comparison(),
            other in any_comparison(),
            joined in prop::sample::select(vec!["and", "or", "and not", "or not"]),
        ) {
            let source =
                format!("{} {} {} {joined} {} {} {}", one.0, one.1, one.2, other.0, other.1, other.2);
            let quick = Quick::new(&parse_expr(&source).unwrap());
            let Some(quick) = quick else { return Ok(()) };
            let scene = scene(&value);
            let (one, other) =
                (machine(&scene, one.0, one.1, one.2), machine(&scene, other.0, other.1, other.2));
            let other = other != joined.ends_with("not");
            let wanted = if joined.starts_with("and") { one && other } else { one || other };
            prop_assert_eq!(quick.holds(&scene), wanted, "{}", source);
        }
    }
}
