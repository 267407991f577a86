use serde_json::json;

use super::*;
use crate::action::Lane as ActionLane;
use crate::command::Command;
use crate::event::{EventId, Trust};

fn action(to: &str, call: &str, repeat: Repeat) -> Action {
    let command =
        Command { to: to.into(), call: call.into(), args: Map::new(), repeat, trust: Trust::Fresh };
    Action {
        id: ActionId::derive(EventId([1; 16]), call, "do[0]", to),
        rule: call.into(),
        step: "do[0]".into(),
        deadline: Clock::system().now() + Duration::from_secs(60),
        not_before: None,
        lane: ActionLane::Normal,
        alert: None,
        task: Task::Command(Box::new(command)),
    }
}

struct Bench {
    commands: Commands,
    drivers: HashMap<String, mpsc::Receiver<Order>>,
    records: mpsc::UnboundedReceiver<Record>,
}

fn bench(owed: Vec<Action>) -> Bench {
    let (out, records) = mpsc::unbounded_channel();
    let (mut senders, mut drivers) = (HashMap::new(), HashMap::new());
    for source in ["emm/block", "fibaro/gate"] {
        let (sender, receiver) = mpsc::channel(4);
        senders.insert(source.to_string(), sender);
        drivers.insert(source.to_string(), receiver);
    }
    let commands = Commands::start(Setup {
        held: Vec::new(),
        drivers: senders,
        owed,
        clock: Clock::system(),
        settle: Box::new(move |all| all.into_iter().for_each(|record| drop(out.send(record)))),
    });
    Bench { commands, drivers, records }
}

impl Bench {
    async fn order(&mut self, source: &str) -> Order {
        self.drivers.get_mut(source).unwrap().recv().await.unwrap()
    }

    async fn outcome(&mut self) -> Outcome {
        match self.records.recv().await.unwrap() {
            Record::Settled(settled) => settled.outcome,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_asker_hears_the_result_and_only_the_driver_hears_the_secret() {
    let mut bench = bench(Vec::new());
    let order = action("emm/block", "password", Repeat::Never);
    let mut secrets = Map::new();
    secrets.insert("new".into(), json!("hush"));
    let answer = bench.commands.expect(order.id, secrets);
    bench.commands.act([order]);
    let order = bench.order("emm/block").await;
    assert_eq!(order.secrets["new"], "hush");
    order.reply.send(Reply::Done(json!([1]))).unwrap();
    assert_eq!(answer.await.unwrap(), (Outcome::Done, json!([1])));
    let record = bench.records.recv().await.unwrap();
    assert!(!format!("{record:?}").contains("hush"), "{record:?}");
}

#[tokio::test(start_paused = true)]
async fn one_system_that_hangs_delays_no_other_and_ends_as_unknown() {
    let mut bench = bench(Vec::new());
    bench.commands.act([action("fibaro/gate", "relay.open", Repeat::Never)]);
    let hanging = bench.order("fibaro/gate").await;
    bench.commands.act([action("emm/block", "send", Repeat::Better)]);
    let order = bench.order("emm/block").await;
    order.reply.send(Reply::Done(Value::Null)).unwrap();
    assert_eq!(bench.outcome().await, Outcome::Done);
    assert!(matches!(bench.outcome().await, Outcome::Unknown { .. }));
    drop(hanging);
}

#[tokio::test(start_paused = true)]
async fn an_alarm_waits_for_nothing_that_is_on_its_way() {
    let mut bench = bench(Vec::new());
    bench.commands.act([action("emm/block", "slow", Repeat::Better)]);
    let hanging = bench.order("emm/block").await;
    let began = tokio::time::Instant::now();
    let alarm = action("emm/block", "smoke", Repeat::Better);
    bench.commands.act([Action { lane: ActionLane::Alarm, ..alarm }]);
    let order = bench.order("emm/block").await;
    assert_eq!(order.command.call, "smoke");
    order.reply.send(Reply::Done(Value::Null)).unwrap();
    assert_eq!(bench.outcome().await, Outcome::Done);
    assert_eq!(began.elapsed(), Duration::ZERO);
    hanging.reply.send(Reply::Done(Value::Null)).unwrap();
    assert_eq!(bench.outcome().await, Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_what_may_be_sent_once_is_unknown_and_the_rest_is_sent() {
    let owed = vec![
        action("fibaro/gate", "relay.open", Repeat::Never),
        action("emm/block", "send", Repeat::Better),
        action("vms/gone", "open_door", Repeat::Harmless),
    ];
    let mut bench = bench(owed);
    let order = bench.order("emm/block").await;
    assert_eq!(order.command.call, "send");
    let mut outcomes = [bench.outcome().await.label(), bench.outcome().await.label()];
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["refused", "unknown"]);
    assert!(bench.drivers.get_mut("fibaro/gate").unwrap().try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn without_a_journal_only_what_a_repetition_cannot_harm_is_done() {
    let mut bench = bench(Vec::new());
    bench.commands.act_unjournaled([
        action("fibaro/gate", "relay.open", Repeat::Never),
        action("emm/block", "send", Repeat::Better),
    ]);
    assert!(matches!(bench.outcome().await, Outcome::Refused { .. }));
    assert_eq!(bench.order("emm/block").await.command.call, "send");
    assert!(bench.drivers.get_mut("fibaro/gate").unwrap().try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_on_its_way_and_ends_what_may_not_wait() {
    let mut bench = bench(Vec::new());
    bench.commands.act([action("fibaro/gate", "first", Repeat::Never)]);
    let order = bench.order("fibaro/gate").await;
    bench.commands.act([action("fibaro/gate", "second", Repeat::Never)]);
    tokio::task::yield_now().await;
    let commands = bench.commands.clone();
    let closing = tokio::spawn(async move { commands.close(Duration::from_secs(3)).await });
    assert!(matches!(bench.outcome().await, Outcome::Refused { .. }));
    order.reply.send(Reply::Done(Value::Null)).unwrap();
    assert_eq!(bench.outcome().await, Outcome::Done);
    closing.await.unwrap();
    bench.commands.act([action("fibaro/gate", "third", Repeat::Never)]);
    assert!(matches!(bench.outcome().await, Outcome::Refused { .. }));
}
