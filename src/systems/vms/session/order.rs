//! The part of the session that does what it is told: an order becomes a question, its answer a
//! reply. What opens a door is asked once: again only if the VMS has certainly refused it, and
//! never along a redirect.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Map, Value, json};
use url::Url;

use super::{Now, Output, Pending, Purpose, Session, asked_wait, refused};
use crate::command::{self, Command};
use crate::systems::http::{Answer, Ask, Fault};
use crate::systems::json;
use crate::systems::link::Reply;
use crate::systems::vms::COMMANDS;
use crate::systems::vms::wire::ask::shown;

/// What opens a door is asked again, after a refused token, only while it is this young.
const OPENING_RETRY_WITHIN: Duration = Duration::from_secs(2);
/// Anything else waits this long for a login under way: as long as the login may take.
const RETRY_WITHIN: Duration = Duration::from_secs(10);
/// Orders under way; people press one button at a time.
const ORDERS_MAX: usize = 16;
/// The most characters of an id in a path.
const CALL_ID_CHARS_MAX: usize = 64;

/// An order under way.
#[derive(Debug, Clone)]
pub(super) struct Job {
    number: u64,
    call: &'static str,
    opens: bool,
    began: Duration,
    deadline: Timestamp,
    /// Why its last attempt was refused, if one was: then it is not tried a third time.
    refused: Option<String>,
    ask: Ask,
}

impl Job {
    /// Whether it may be asked again: only for what is certain not to have been done.
    pub(super) fn may_repeat(&self, now: Now) -> bool {
        now.run < self.parked_until() && now.wall <= self.deadline
    }

    /// Whether it changes nothing, whoever is asked and how often.
    pub(super) fn only_asks(&self) -> bool {
        self.ask.method == Method::GET
    }

    /// How long it waits for a login.
    pub(super) fn parked_until(&self) -> Duration {
        let within = if self.opens { OPENING_RETRY_WITHIN } else { RETRY_WITHIN };
        self.began.saturating_add(within)
    }

    /// It was not done: what its number is answered.
    fn not_done(self, why: &str) -> Output {
        let reply = match self.refused {
            Some(refused) => Reply::Refused(refused),
            None => Reply::Unsent(why.to_string()),
        };
        Output::Reply(self.number, reply)
    }
}

impl Session {
    pub(super) fn take_order(
        &mut self,
        number: u64,
        command: &Command,
        deadline: Timestamp,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let job = match self.prepare(number, command, deadline, now) {
            Ok(job) => job,
            Err(reply) => return out.push(Output::Reply(number, reply)),
        };
        if self.kept.token.is_none() {
            self.parked.push(job);
        } else {
            self.send(job, out);
        }
    }

    fn prepare(
        &self,
        number: u64,
        command: &Command,
        deadline: Timestamp,
        now: Now,
    ) -> Result<Job, Reply> {
        let spec = command::find(COMMANDS, &command.call);
        let spec = spec.map_err(|mistake| Reply::Refused(mistake.to_string()))?;
        if now.wall > deadline {
            return Err(Reply::Unsent("its time was over before it was sent".into()));
        }
        if let Some(why) = &self.cut {
            return Err(Reply::Unsent(format!("not connected: {why}")));
        }
        let orders = self.pending.values().filter(|p| matches!(p.purpose, Purpose::Order(_)));
        if orders.count() + self.parked.len() >= ORDERS_MAX {
            return Err(Reply::Unsent(format!("{ORDERS_MAX} commands are under way already")));
        }
        let ask = self.question_of(spec.name, &command.args)?;
        let (call, opens, began) = (spec.name, spec.opens, now.run);
        Ok(Job { number, call, opens, began, deadline, refused: None, ask })
    }

    fn question_of(&self, call: &str, args: &Map<String, Value>) -> Result<Ask, Reply> {
        let page = |args: &Map<String, Value>| ("page", text(args, "page", "1"));
        Ok(match call {
            "open_door" => self.asker.open_door(self.door(args)?),
            "rename" => self.change(args, "title", "title")?,
            "enable" => self.change(args, "enabled", "is_enabled")?,
            "timetable" => self.change(args, "timetable", "timetable")?,
            "intercoms" => self.asker.ask(Method::GET, "intercom", &[page(args)]),
            "events" => self.asker.ask(Method::GET, "intercom/events", &[page(args)]),
            "call" => {
                let id = text(args, "id", "");
                let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
                if id.is_empty() || id.len() > CALL_ID_CHARS_MAX || !id.chars().all(is_id) {
                    return Err(Reply::Refused("a call's id is a number".into()));
                }
                self.asker.ask(Method::GET, &format!("intercom/calls/{id}"), &[])
            }
            "calls" => {
                let mut query = vec![page(args), ("per_page", text(args, "per_page", "25"))];
                let types = args.get("types").and_then(Value::as_array).into_iter().flatten();
                let types = types.filter_map(Value::as_str);
                query.extend(types.map(|kind| ("types[]", kind.to_string())));
                if args.contains_key("intercom") {
                    query.push(("intercom", self.intercom(args)?.to_string()));
                }
                self.asker.ask(Method::GET, "intercom/calls", &query)
            }
            other => return Err(Reply::Refused(format!("`{other}` is not done here"))),
        })
    }

    fn change(&self, args: &Map<String, Value>, arg: &str, field: &str) -> Result<Ask, Reply> {
        let value = args.get(arg).cloned().unwrap_or_default();
        Ok(self.asker.change(self.intercom(args)?, json!({ field: value })))
    }

    /// The intercom meant. Before all are known, nothing is certain about one that is not.
    fn intercom(&self, args: &Map<String, Value>) -> Result<u64, Reply> {
        self.house.find(&text(args, "intercom", "")).map_err(|why| {
            if self.house.is_learned() {
                Reply::Refused(why)
            } else {
                Reply::Unsent("the intercoms are not known yet".into())
            }
        })
    }

    /// The intercom meant, if its door may be opened. One that is offline might open when it is
    /// back, for nobody.
    fn door(&self, args: &Map<String, Value>) -> Result<u64, Reply> {
        let id = self.intercom(args)?;
        let is_false = |name| self.house.field(id, name) == Some(&Value::Bool(false));
        let title = self.house.title(id);
        if is_false("is_open_door_app") {
            return Err(Reply::Refused(format!("apps may not open the door of `{title}`")));
        }
        if is_false("is_online") {
            return Err(Reply::Refused(format!("`{title}` is offline")));
        }
        Ok(id)
    }

    fn send(&mut self, job: Job, out: &mut Vec<Output>) {
        let Some(token) = &self.kept.token else { return self.parked.push(job) };
        let ask = job.ask.clone().bearer(token);
        let purpose = Purpose::Order(Box::new(job));
        self.ask(Pending { purpose, ask, redirects: 0, began: None }, out);
    }

    pub(super) fn order_answered(
        &mut self,
        job: Job,
        asked: Ask,
        got: Result<Answer, Fault>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let number = job.number;
        let reply = match got {
            Ok(answer) if answer.status == 401 => {
                return self.order_unauthorised(job, asked, &answer, now, out);
            }
            Ok(answer) => {
                out.push(Output::Alive);
                self.reply(&job, &asked.url, &answer, now)
            }
            Err(fault) => {
                // Whatever stood in its way, the next poll is to find out.
                self.schedule.calls_now();
                match fault {
                    Fault::Unsent(why) => Reply::Unsent(why),
                    Fault::Unknown(why) => Reply::Unknown(why),
                }
            }
        };
        out.push(Output::Reply(number, reply));
    }

    fn reply(&mut self, job: &Job, asked: &Url, answer: &Answer, now: Now) -> Reply {
        if let Some(wait) = asked_wait(answer) {
            // Calls find out by themselves whether it is meant for them too.
            self.house_lane.hold(wait, now.run);
        }
        match answer.status {
            200..=299 => {
                if matches!(job.call, "rename" | "enable" | "timetable") {
                    self.schedule.shows_now();
                }
                done(answer)
            }
            300..=399 => {
                let why = format!("{}: {}", answer.status, redirect(asked, &answer.location));
                // Many servers act first and redirect after.
                if job.only_asks() { Reply::Refused(why) } else { Reply::Unknown(why) }
            }
            404 if job.opens => Reply::Refused(format!(
                "{}; it is not this account's, or not confirmed",
                refused(answer)
            )),
            // What stands before the VMS may have passed it on.
            500.. => Reply::Unknown(refused(answer).to_string()),
            _ => Reply::Refused(refused(answer).to_string()),
        }
    }

    /// The token was refused, so nothing was done: once, a new one may be tried.
    fn order_unauthorised(
        &mut self,
        mut job: Job,
        asked: Ask,
        answer: &Answer,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let again = job.refused.is_none() && job.may_repeat(now);
        job.refused = Some(refused(answer).to_string());
        // Another question may have got a new token meanwhile.
        if self.is_of_this_token(&asked) {
            self.drop_token(out);
        }
        if again {
            self.send(job, out);
        } else {
            out.push(job.not_done(""));
        }
    }

    /// A login went well: orders that waited for it are sent.
    pub(super) fn send_parked(&mut self, now: Now, out: &mut Vec<Output>) {
        self.give_up_parked(now, out);
        for job in std::mem::take(&mut self.parked) {
            self.send(job, out);
        }
    }

    /// A login failed: orders that waited for it are not done.
    pub(super) fn release_parked(&mut self, why: &str, out: &mut Vec<Output>) {
        let why = format!("not connected: {why}");
        out.extend(std::mem::take(&mut self.parked).into_iter().map(|job| job.not_done(&why)));
    }

    /// Orders that waited too long for a login are not done.
    pub(super) fn give_up_parked(&mut self, now: Now, out: &mut Vec<Output>) {
        let (stay, over): (Vec<Job>, Vec<Job>) =
            std::mem::take(&mut self.parked).into_iter().partition(|job| job.may_repeat(now));
        self.parked = stay;
        out.extend(over.into_iter().map(|job| job.not_done("the login took too long")));
    }
}

/// What a redirect that is not followed says to people.
fn redirect(asked: &Url, location: &Option<String>) -> String {
    let to = location.as_deref().and_then(|to| shown(asked, to));
    let to = to.map_or_else(String::new, |to| format!(" to {to}"));
    format!("the VMS answered with a redirect{to}; put its new address into `url`")
}

/// What an answer of success is worth. The VMS says nothing or JSON; anything else is what stands
/// before it, a hotel's or a proxy's login page, and whether it passed the question on is unknown.
fn done(answer: &Answer) -> Reply {
    if answer.body.iter().all(u8::is_ascii_whitespace) {
        return Reply::Done(Value::Null);
    }
    match json::value(&answer.body).map(|(value, _)| value) {
        Ok(said) if ["error", "errors"].iter().any(|name| is_said(said.get(name))) => {
            Reply::Refused(refused(answer).to_string())
        }
        Ok(said) => Reply::Done(said),
        Err(_) => Reply::Unknown(format!("{}, which is not the VMS's answer", refused(answer))),
    }
}

/// Whether an error is said, rather than its place left empty.
fn is_said(error: Option<&Value>) -> bool {
    match error {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(errors)) => !errors.is_empty(),
        Some(Value::Object(errors)) => !errors.is_empty(),
        Some(_) => true,
    }
}

fn text(args: &Map<String, Value>, name: &str, otherwise: &str) -> String {
    args.get(name).and_then(super::super::wire::text).unwrap_or_else(|| otherwise.to_string())
}
