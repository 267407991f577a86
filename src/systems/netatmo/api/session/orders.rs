//! The part of the session that does what it is told. What opens a lock is asked once: again only
//! if Netatmo has refused the token it went with, and while it is young.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::{BUSY_WAIT, Now, Output, Session, THROTTLED_MOST};
use crate::command::{self, Command, Spec};
use crate::systems::http::{Answer, Ask, Fault};
use crate::systems::link::Reply;
use crate::systems::netatmo::api::COMMANDS;
use crate::systems::netatmo::api::gap::{Modules, PAGE_SIZE};
use crate::systems::netatmo::api::wire::{self, About, Read, Refusal};

/// What opens a lock is asked again only while it is this young.
const OPENING_RETRY_WITHIN: Duration = Duration::from_secs(2);
/// After "too many calls" nothing that can wait is sent for so long: each try counts as a call.
const THROTTLED_WAIT: Duration = Duration::from_secs(60);
/// Orders that wait; people press one button at a time.
const ORDERS_MAX: usize = 16;
/// Netatmo's number for "it is so already".
const ALREADY: i64 = 23;
/// What the page and the journal are not to hold of an answer.
const NOT_SHOWN: [&str; 2] = ["vpn_url", "url"];

/// What an answer to an order is good for besides.
#[derive(Debug, Clone, PartialEq)]
enum Asked {
    /// Something is set.
    Set,
    Homes,
    Status(String),
    Events,
}

/// An order that waits or is under way.
#[derive(Debug)]
pub(super) struct Job {
    number: u64,
    call: &'static str,
    opens: bool,
    began: Duration,
    deadline: Timestamp,
    /// Not before this moment.
    pub(super) not_before: Duration,
    /// Why its last attempt was refused, if one was.
    refused: Option<String>,
    token_tried: bool,
    asked: Asked,
    pub(super) ask: Ask,
}

impl Job {
    /// When something is to be done with it: sent, or given up.
    pub(super) fn next(&self, now: Now) -> Duration {
        let left = self.deadline.duration_since(now.wall).max(SignedDuration::ZERO);
        let left = Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1);
        let over = now.run.saturating_add(left);
        if self.not_before > now.run { self.not_before.min(over) } else { over }
    }

    /// Whether it may still be sent. What opens is sent a second time only while it is young.
    fn may_go(&self, now: Now) -> bool {
        let is_young = now.run <= self.began.saturating_add(OPENING_RETRY_WITHIN);
        now.wall <= self.deadline && (!self.opens || self.refused.is_none() || is_young)
    }

    /// Nobody knows whether it was done.
    pub(super) fn unknown(&self, why: &str) -> Output {
        Output::Reply(self.number, Reply::Unknown(why.to_string()))
    }

    /// It was not done.
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
        match self.prepare(number, command, deadline, now) {
            Ok(job) => self.jobs.push_back(job),
            Err(reply) => out.push(Output::Reply(number, reply)),
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
        let no_token = self.oauth.access(now).is_none() && self.oauth.due(now) > now.run;
        if no_token || !self.homes.is_learned() {
            let why = if self.why.is_empty() { "no token is good" } else { &self.why };
            return Err(Reply::Unsent(format!("not connected: {why}")));
        }
        if self.jobs.len() >= ORDERS_MAX {
            return Err(Reply::Unsent(format!("{ORDERS_MAX} commands wait already")));
        }
        // A door is worth a try in any case.
        if let Some((until, why)) = &self.orders_hold
            && now.run < *until
            && !spec.opens
        {
            return Err(Reply::Unsent(format!("not asked again so soon: {why}")));
        }
        let (ask, asked) = self.question_of(spec, &command.args).map_err(Reply::Refused)?;
        Ok(Job {
            number,
            call: spec.name,
            opens: spec.opens,
            began: now.run,
            deadline,
            not_before: now.run,
            refused: None,
            token_tried: false,
            asked,
            ask,
        })
    }

    fn question_of(
        &self,
        spec: &'static Spec,
        args: &Map<String, Value>,
    ) -> Result<(Ask, Asked), String> {
        let word = |name: &str| args.get(name).and_then(Value::as_str);
        let set = |ask| Ok((ask, Asked::Set));
        match spec.name {
            "floodlight" => set(self.change(args, "NOC", json!({ "floodlight": word("mode") }))?),
            "monitoring" => {
                let on = args.get("on").and_then(Value::as_bool).unwrap_or_default();
                let on = if on { "on" } else { "off" };
                set(self.change(args, "", json!({ "monitoring": on }))?)
            }
            "staircase_light" => set(self.bridged(args, "BNSL", json!({ "on": true }))?),
            "unlock" => set(self.bridged(args, "BNDL", json!({ "lock": false }))?),
            "persons_home" => set(self.persons_home(args)?),
            "persons_away" => set(self.persons_away(args)?),
            "homes" => Ok((self.asker.form("api/homesdata", &[]), Asked::Homes)),
            "status" => {
                let home = self.homes.find_home(word("home"))?;
                let ask = self.asker.form("api/homestatus", &[("home_id", &home)]);
                Ok((ask, Asked::Status(home)))
            }
            "events" => {
                let home = self.homes.find_home(word("home"))?;
                let size = args.get("size").and_then(Value::as_u64).unwrap_or(PAGE_SIZE);
                Ok((self.asker.events(&home, size, None), Asked::Events))
            }
            other => Err(format!("`{other}` is not done here")),
        }
    }

    /// Fields of a module to set. `product` decides between modules of one name.
    fn change(&self, args: &Map<String, Value>, product: &str, to: Value) -> Result<Ask, String> {
        let (home, id) = self.module(args, product)?;
        let mut fields = json!({ "id": id });
        if let (Value::Object(fields), Value::Object(to)) = (&mut fields, to) {
            fields.extend(to);
        }
        Ok(self.asker.set_state(&home, fields))
    }

    /// The same for modules that are spoken to through their bridge.
    fn bridged(&self, args: &Map<String, Value>, product: &str, to: Value) -> Result<Ask, String> {
        let (home, id) = self.module(args, product)?;
        let given = args.get("bridge").and_then(Value::as_str).map(String::from);
        let bridge = given.or_else(|| self.homes.bridge(&id).map(String::from));
        let bridge = bridge.ok_or_else(|| format!("the bridge of `{id}` is not known; give it"))?;
        let mut fields = json!({ "id": id, "bridge": bridge });
        if let (Value::Object(fields), Value::Object(to)) = (&mut fields, to) {
            fields.extend(to);
        }
        Ok(self.asker.set_state(&home, fields))
    }

    fn module(&self, args: &Map<String, Value>, product: &str) -> Result<(String, String), String> {
        let wanted = args.get("module").and_then(Value::as_str).unwrap_or_default();
        let suits = |module: &Map<String, Value>| {
            module.get("type").and_then(Value::as_str).is_some_and(|of| of.starts_with(product))
        };
        let (id, home) = self.homes.find("module", wanted, None, suits)?;
        Ok((home, id))
    }

    fn persons_home(&self, args: &Map<String, Value>) -> Result<Ask, String> {
        let mut home = self.named_home(args)?;
        let mut ids = Vec::new();
        let persons = args.get("persons").and_then(Value::as_array);
        for wanted in persons.into_iter().flatten().filter_map(Value::as_str) {
            let (id, of) = self.homes.find("person", wanted, home.as_deref(), |_| true)?;
            // All in one home: the first one's, if none is named.
            home = Some(of);
            ids.push(id);
        }
        if ids.is_empty() {
            return Err("no person is named".into());
        }
        let (home, ids) = (home.unwrap_or_default(), json!(ids).to_string());
        let fields = [("home_id", home.as_str()), ("person_ids", ids.as_str())];
        Ok(self.asker.form("api/setpersonshome", &fields))
    }

    fn persons_away(&self, args: &Map<String, Value>) -> Result<Ask, String> {
        let home = self.named_home(args)?;
        let path = "api/setpersonsaway";
        match args.get("person").and_then(Value::as_str) {
            Some(wanted) => {
                let found = self.homes.find("person", wanted, home.as_deref(), |_| true)?;
                let fields = [("home_id", found.1.as_str()), ("person_id", found.0.as_str())];
                Ok(self.asker.form(path, &fields))
            }
            None => {
                let home = match home {
                    Some(home) => home,
                    None => self.homes.find_home(None)?,
                };
                Ok(self.asker.form(path, &[("home_id", &home)]))
            }
        }
    }

    fn named_home(&self, args: &Map<String, Value>) -> Result<Option<String>, String> {
        let named = args.get("home").and_then(Value::as_str);
        named.map(|wanted| self.homes.find_home(Some(wanted))).transpose()
    }

    /// The next order that may be sent now.
    pub(super) fn next_job(&mut self, now: Now) -> Option<Job> {
        let at = self.jobs.iter().position(|job| job.not_before <= now.run)?;
        self.jobs.remove(at)
    }

    /// Orders whose time is over are not done.
    pub(super) fn expire_jobs(&mut self, now: Now, out: &mut Vec<Output>) {
        let (stay, over): (Vec<Job>, Vec<Job>) =
            std::mem::take(&mut self.jobs).into_iter().partition(|job| job.may_go(now));
        self.jobs = stay.into();
        out.extend(over.into_iter().map(|job| job.not_done("its time was over")));
    }

    /// No token comes: what waits for one is not done.
    pub(super) fn release_jobs(&mut self, why: &str, out: &mut Vec<Output>) {
        let why = format!("not connected: {why}");
        let jobs = std::mem::take(&mut self.jobs);
        out.extend(jobs.into_iter().map(|job| job.not_done(&why)));
    }

    pub(super) fn order_answered(
        &mut self,
        job: Job,
        got: Result<Answer, Fault>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let number = job.number;
        let answer = match got {
            Ok(answer) => answer,
            Err(Fault::Unsent(why)) => {
                self.wait(None, why.clone(), now, out);
                return out.push(job.not_done(&why));
            }
            Err(Fault::Unknown(why)) => {
                self.wait(None, why.clone(), now, out);
                return out.push(Output::Reply(number, Reply::Unknown(why)));
            }
        };
        let reply = match self.read(&answer) {
            Read::Good(fields) => self.good(&job, &fields, now, out),
            Read::Refused(refusal) => match self.refused(job, &refusal, now, out) {
                Some(reply) => reply,
                None => return,
            },
            Read::Strange(why) => {
                self.bad(format!("the answer to `{}`: {why}", job.call), &answer.body, out);
                Reply::Unknown(format!("Netatmo's answer says nothing: {why}"))
            }
        };
        out.push(Output::Reply(number, reply));
    }

    fn good(
        &mut self,
        job: &Job,
        fields: &Map<String, Value>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Reply {
        match &job.asked {
            Asked::Homes => drop(self.hear_homes(fields, now, out)),
            Asked::Status(home) => drop(self.hear_status(&home.clone(), fields, now, out)),
            Asked::Events => {}
            Asked::Set => {
                let said = fields.get("status").and_then(Value::as_str);
                if let Some(error) = wire::errors(fields).first() {
                    return module_error(job, error);
                }
                if said != Some("ok") {
                    return Reply::Unknown(
                        "Netatmo's answer does not say whether it is done".into(),
                    );
                }
                // Soon its new state is to be seen; not so often that it costs.
                let soon = now.run.saturating_add(BUSY_WAIT);
                self.due.values_mut().for_each(|due| due.status = due.status.min(soon));
                return Reply::Done(json!({ "status": "ok" }));
            }
        }
        let mut body = fields.get("body").cloned().unwrap_or_default();
        hide(&mut body);
        Reply::Done(body)
    }

    /// A refusal is an answer, or a reason to try once more.
    fn refused(
        &mut self,
        mut job: Job,
        refusal: &Refusal,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Option<Reply> {
        let why = refusal.to_string();
        match refusal.about() {
            About::Token => {
                self.oauth.access_refused(now);
                let again = !std::mem::replace(&mut job.token_tried, true);
                job.refused = Some(why.clone());
                if again && job.may_go(now) {
                    self.jobs.push_front(job);
                    return None;
                }
                return Some(Reply::Refused(why));
            }
            About::Busy if !job.opens => {
                job.not_before = now.run.saturating_add(BUSY_WAIT);
                let then = Now { run: job.not_before, wall: now.wall + BUSY_WAIT };
                if job.may_go(then) {
                    self.jobs.push_front(job);
                    return None;
                }
            }
            About::Busy => {}
            About::Throttled => {
                let asked = refusal.retry_after.unwrap_or_default().min(THROTTLED_MOST);
                let until = now.run.saturating_add(THROTTLED_WAIT.max(asked));
                self.orders_hold = Some((until, why.clone()));
                self.throttle(refusal, now);
            }
            About::Scope => {
                self.scope_missing(now, out);
                return Some(Reply::Refused(why));
            }
            About::Nothing => return Some(Reply::Done(json!({ "status": "ok", "said": why }))),
            _ if is_already(&job, refusal.code) => {
                return Some(Reply::Done(json!({ "status": "ok", "said": why })));
            }
            // What stands before Netatmo may have passed it on.
            _ if refusal.status >= 500 => return Some(Reply::Unknown(why)),
            _ => return Some(Reply::Refused(why)),
        }
        // Certainly not done; what does not open may come later.
        Some(if job.opens { Reply::Refused(why) } else { Reply::Unsent(why) })
    }
}

/// A good answer with an error about the module in it.
fn module_error(job: &Job, (code, id): &(i64, Option<String>)) -> Reply {
    let meaning = wire::meaning(*code);
    if is_already(job, Some(*code)) {
        return Reply::Done(json!({ "status": "ok", "said": meaning }));
    }
    let id = id.as_deref().unwrap_or("the module");
    Reply::Refused(format!("Netatmo refused it with code {code} ({meaning}) for {id}"))
}

fn is_already(job: &Job, code: Option<i64>) -> bool {
    code == Some(ALREADY) && !job.opens && job.asked == Asked::Set
}

/// Takes addresses out that show pictures to whoever has them.
fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !NOT_SHOWN.contains(&name.as_str()));
            fields.values_mut().for_each(hide);
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}
