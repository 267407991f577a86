//! What to make of a snapshot when changes came while it was under way: it may hold some of them
//! and not others, and nothing on the wire says which. Pure.

use serde_json::Value;

use super::patch::Patch;

/// The most changes of one object that are sorted out; more came than are worth it, and asking
/// again is cheaper.
const STEPS_MAX: usize = 32;

/// A change that came after the snapshot was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The object was made, like this.
    Added(Value),
    /// It was changed.
    Patched(Patch),
    /// It was changed, and how could not be read.
    Garbled,
    /// It was taken away.
    Deleted,
}

/// What a snapshot and the changes since mean for one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// The object in the snapshot, or what came in its place.
    pub base: Option<Value>,
    /// How many of the steps `base` holds; the others apply to it in order.
    pub contained: usize,
    /// Whether steps and snapshot contradict each other: the object must be asked for again.
    pub doubtful: bool,
}

/// Finds how many of the steps the snapshot holds already. Values in patches are absolute, so the
/// last step that the snapshot shows is the newest it can hold.
pub fn settle(snapshot: Option<&Value>, steps: &[Step]) -> Settled {
    if steps.len() > STEPS_MAX {
        let base = snapshot.cloned();
        return Settled { base, contained: steps.len(), doubtful: true };
    }
    // A life ends or begins: only what comes after that counts.
    if let Some(at) = steps.iter().rposition(|s| matches!(s, Step::Added(_) | Step::Deleted)) {
        let after = settle_life(snapshot, &steps[at], &steps[at + 1..]);
        return Settled { contained: at + 1 + after.contained, ..after };
    }
    match snapshot {
        Some(object) => settle_patches(object, steps),
        // It was deleted meanwhile, and the word of that is still to come or was lost.
        None => Settled { base: None, contained: steps.len(), doubtful: false },
    }
}

fn settle_life(snapshot: Option<&Value>, life: &Step, steps: &[Step]) -> Settled {
    match (life, snapshot) {
        (Step::Added(_), Some(object)) => settle_patches(object, steps),
        (Step::Added(object), None) => settle_patches(object, steps),
        // The snapshot is older than the deletion.
        _ => Settled { base: None, contained: steps.len(), doubtful: !steps.is_empty() },
    }
}

fn settle_patches(object: &Value, steps: &[Step]) -> Settled {
    let base = Some(object.clone());
    for contained in (0..=steps.len()).rev() {
        let (held, rest) = steps.split_at(contained);
        let is_held = held.last().is_none_or(|step| match step {
            Step::Patched(patch) => patch.is_contained(object),
            _ => false,
        });
        if is_held && follows(object, rest) {
            return Settled { base, contained, doubtful: false };
        }
    }
    Settled { base, contained: steps.len(), doubtful: true }
}

/// Whether the steps apply one after the other without a surprise.
fn follows(object: &Value, steps: &[Step]) -> bool {
    let mut object = object.clone();
    steps.iter().all(|step| match step {
        Step::Patched(patch) => match patch.apply(&object) {
            Ok(applied) if !applied.surprised => {
                object = applied.object;
                true
            }
            _ => false,
        },
        _ => false,
    })
}

/// `base` after the steps it does not hold; those that do not apply are left out.
pub fn replay(settled: &Settled, steps: &[Step]) -> Option<Value> {
    let mut object = settled.base.clone()?;
    for step in &steps[settled.contained.min(steps.len())..] {
        if let Step::Patched(patch) = step
            && let Ok(applied) = patch.apply(&object)
        {
            object = applied.object;
        }
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(old: i64, new: i64) -> Step {
        Step::Patched(Patch::read(&json!([["change", "x", [old, new]]])).unwrap())
    }

    fn check(snapshot: Option<i64>, steps: &[Step], expect: Option<i64>, doubtful: bool) {
        let snapshot = snapshot.map(|x| json!({ "x": x }));
        let settled = settle(snapshot.as_ref(), steps);
        let object = replay(&settled, steps);
        assert_eq!(object, expect.map(|x| json!({ "x": x })), "{steps:?}");
        assert_eq!(settled.doubtful, doubtful, "{steps:?}");
    }

    #[test]
    fn a_snapshot_may_hold_any_number_of_the_patches() {
        let steps = [change(1, 2), change(2, 3), change(3, 4)];
        for x in 1..=4 {
            check(Some(x), &steps, Some(4), false);
        }
        check(Some(9), &steps, Some(9), true);
    }

    #[test]
    fn there_and_back_again() {
        for x in 1..=2 {
            check(Some(x), &[change(1, 2), change(2, 1)], Some(1), false);
            check(Some(x), &[change(1, 2), change(2, 1), change(1, 2)], Some(2), false);
        }
    }

    #[test]
    fn births_and_deaths_count_more_than_an_older_snapshot() {
        let born = Step::Added(json!({ "x": 1 }));
        check(None, std::slice::from_ref(&born), Some(1), false);
        check(None, &[born.clone(), change(1, 2)], Some(2), false);
        check(Some(2), &[born.clone(), change(1, 2)], Some(2), false);
        check(Some(1), &[change(0, 1), Step::Deleted], None, false);
        check(None, &[Step::Deleted, born], Some(1), false);
        check(None, &[change(0, 1)], None, false);
        check(Some(1), &[Step::Garbled], Some(1), true);
    }
}
