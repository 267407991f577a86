//! Commands by hand: what a person at the terminal tells a system takes the same way as what a
//! rule tells it, through the journal and the same lane. Secrets among the arguments stay in
//! memory.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Face;
use super::admin::allow;
use super::session::ApiError;
use crate::builtin::{self, COMMAND_EVENT};
use crate::command::{Command, Kind, Spec, find};
use crate::event::Trust;
use crate::node::nearest;
use crate::secret::random_name;

/// Whoever stands at the terminal wants to know now; later they would rather ask again.
const BY_HAND_TTL: Duration = Duration::from_secs(10);
/// How long to wait for the end at most: beyond the deadline, a command that has left may still
/// be answered.
const END_WITHIN: Duration = Duration::from_secs(55);

/// A command by hand.
#[derive(Debug, Serialize, Deserialize)]
pub struct CommandAsk {
    /// Which system: `indigo/house`.
    pub to: String,
    /// Which command of its table.
    pub call: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Map<String, Value>,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub struct CommandAnswer {
    /// `done`, `refused`, `unknown`, `expired`.
    pub outcome: String,
    /// Why, if it is not done.
    pub detail: String,
    /// What the system answered.
    pub result: Value,
}

/// `POST /control/commands`.
pub async fn command(
    request: HttpRequest,
    ask: web::Json<CommandAsk>,
    face: web::Data<Face>,
) -> Result<HttpResponse, ApiError> {
    allow(&request, &face)?;
    let CommandAsk { to, call, args } = ask.into_inner();
    let table = face.sources.get(&to).ok_or_else(|| unknown_system(&face, &to))?;
    let bad = |mistake: crate::command::Mistake| ApiError::Bad(mistake.to_string());
    let spec = find(table, &call).map_err(bad)?;
    let (args, secrets) = apart(spec, spec.check(args).map_err(bad)?);
    if let Some(door) = face.doors.house().opened_by(&to, &call, |arg| args.get(arg).cloned()) {
        let name = &door.name;
        return Err(ApiError::Forbidden(format!(
            "this opens the door `{name}`: portero open {name}"
        )));
    }
    if !face.journal.is_writable() && spec.repeat == crate::command::Repeat::Never {
        return Err(ApiError::Unavailable("the journal cannot be written".into()));
    }
    let command = Command { to, call, args, repeat: spec.repeat, trust: Trust::Human };
    Ok(HttpResponse::Ok().json(carry_out(&face, command, secrets).await))
}

async fn carry_out(face: &Face, command: Command, secrets: Map<String, Value>) -> CommandAnswer {
    let mut data = Map::new();
    data.insert("command".into(), json!(command));
    data.insert("deadline".into(), json!(face.intake.clock().now() + BY_HAND_TTL));
    let mut event = face.intake.own_event(COMMAND_EVENT, &random_name(), data);
    event.subject = Some(command.to.clone());
    event.trust = Trust::Human;
    let action = builtin::command_action(event.id, &command.to);
    // Before the event, or the answer may be there before anybody waits for it.
    let answer = face.commands.expect(action, secrets);
    face.intake.take(vec![event.into()]).await;
    let ended = tokio::time::timeout(END_WITHIN, answer).await;
    face.commands.forget(action);
    match ended {
        Ok(Ok((outcome, result))) => {
            let detail = outcome.why().to_string();
            CommandAnswer { outcome: outcome.label().into(), detail, result }
        }
        Ok(Err(_)) | Err(_) => CommandAnswer {
            outcome: "unknown".into(),
            detail: "nothing was heard of it in time".into(),
            result: Value::Null,
        },
    }
}

fn apart(spec: &Spec, args: Map<String, Value>) -> (Map<String, Value>, Map<String, Value>) {
    let is_secret = |name: &str| {
        spec.args.iter().any(|arg| arg.name == name && matches!(arg.kind, Kind::Secret))
    };
    let (secrets, args): (Vec<_>, Vec<_>) = args.into_iter().partition(|(name, _)| is_secret(name));
    (args.into_iter().collect(), secrets.into_iter().collect())
}

fn unknown_system(face: &Face, to: &str) -> ApiError {
    let known: Vec<&str> = face.sources.keys().map(String::as_str).collect();
    ApiError::Bad(match nearest(to, known.iter().copied()) {
        Some(near) => format!("there is no system `{to}`; did you mean `{near}`?"),
        None if known.is_empty() => format!("there is no system `{to}`: the config names none"),
        None => format!("there is no system `{to}`; there are {}", known.join(", ")),
    })
}
