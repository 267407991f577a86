//! What must hold whatever happens to a block's intercoms: the state is the truth, names lead to
//! who bears them, and events tell all there is to tell.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::Told;
use super::house::House;
use crate::event::{Heard, Trust};
use crate::record::{Becomes, KnownChange};
use crate::systems::link::News;
use crate::systems::vms::wire;

/// Title, online, enabled.
type Intercom = (&'static str, bool, bool);
type Block = BTreeMap<u64, Intercom>;

const TITLES: [&str; 5] = ["Home", "Gate", "7", "", "a/b"];

fn block() -> impl Strategy<Value = Block> {
    let intercom = (prop::sample::select(&TITLES[..]), any::<bool>(), any::<bool>());
    prop::collection::btree_map(1..6u64, intercom, 0..6)
}

fn print(id: u64, (title, online, enabled): Intercom) -> Value {
    json!({ "id": id, "title": title, "is_online": online, "is_enabled": enabled })
}

#[derive(Default)]
struct Fold {
    known: BTreeMap<String, Value>,
    names: BTreeMap<String, String>,
    told: Block,
}

impl Fold {
    fn take(&mut self, news: News) {
        news.known.into_iter().for_each(|change| self.change(change));
        news.events.into_iter().for_each(|heard| self.hear(&heard));
    }

    fn change(&mut self, KnownChange { path, to }: KnownChange) {
        match to {
            Becomes::Is(value) => drop(self.known.insert(path, value)),
            Becomes::SameAs(other) => drop(self.names.insert(path, other)),
            Becomes::Gone => {
                self.known.remove(&path);
                self.names.remove(&path);
            }
            Becomes::Fields { set, gone } => {
                let fields = self.known.get_mut(&path).unwrap().as_object_mut().unwrap();
                fields.extend(set);
                gone.iter().for_each(|name| drop(fields.remove(name)));
            }
        }
    }

    fn hear(&mut self, heard: &Heard) {
        let data = &heard.event.data;
        let id = data["intercom_id"].as_u64().unwrap();
        let title = |data: &Map<String, Value>| {
            let title = data["title"].as_str().unwrap();
            *TITLES.iter().find(|known| **known == title).unwrap_or(&"")
        };
        let flag = |name: &str| data[name].as_bool().unwrap();
        match heard.event.kind.strip_prefix("vms.intercom.").unwrap() {
            "appeared" => {
                self.told.insert(id, (title(data), flag("is_online"), flag("is_enabled")));
            }
            "gone" => drop(self.told.remove(&id)),
            "renamed" => self.told.get_mut(&id).unwrap().0 = title(data),
            "online" => self.told.get_mut(&id).unwrap().1 = true,
            "offline" => self.told.get_mut(&id).unwrap().1 = false,
            "enabled" => self.told.get_mut(&id).unwrap().2 = true,
            "disabled" => self.told.get_mut(&id).unwrap().2 = false,
            other => panic!("{other}"),
        }
    }

    fn check(&self, truth: &Block) {
        assert_eq!(&self.told, truth, "events");
        let path = |id: &u64| format!("vms/block/intercom/{id}");
        let intercoms = self.known.iter().filter(|(path, _)| *path != "vms/block/intercoms");
        let known: BTreeMap<_, _> = intercoms.map(|(p, v)| (p.clone(), v.clone())).collect();
        let printed = truth.iter().map(|(id, intercom)| (path(id), print(*id, *intercom)));
        assert_eq!(known, printed.collect(), "state");
        for title in ["Home", "Gate", "a/b"] {
            let named = self.names.get(&path_of(title));
            let bearers: Vec<String> =
                truth.iter().filter(|(_, i)| i.0 == title).map(|(id, _)| path(id)).collect();
            assert_eq!(named.is_some(), !bearers.is_empty(), "{title}");
            assert!(named.is_none_or(|named| bearers.contains(named)), "{title}");
        }
        assert!(!self.names.contains_key(&path_of("7")), "a title that looks like an id");
    }
}

fn path_of(title: &str) -> String {
    format!("vms/block/intercom/{title}")
}

fn round(house: &mut House, fold: &mut Fold, truth: &Block, asked: &[u64], second: i64) {
    let received = jiff::Timestamp::from_second(1_790_000_000 + second).unwrap();
    let (source, trust) = ("vms/block".to_string(), Trust::Fresh);
    let told = Told { source, trust, received, server: Some(received), first: false, gap: false };
    let listed: Value = truth.iter().map(|(id, intercom)| print(*id, *intercom)).collect();
    let list = wire::intercoms(listed.to_string().as_bytes()).unwrap();
    // One that is missing is gone when a second look finds it missing too.
    fold.take(house.hear(asked, list.items.clone(), true, &told));
    fold.take(house.hear(asked, list.items, true, &told));
    fold.take(house.round_ended(&asked.iter().copied().collect()));
}

proptest! {
    #[test]
    fn the_state_is_the_truth_and_events_tell_it(
        blocks in prop::collection::vec((block(), any::<bool>()), 1..12),
    ) {
        let mut fold = Fold::default();
        let mut house = House::new("vms/block", &[]);
        let all = [1, 2, 3, 4, 5];
        // The first round learns an empty block, so that events tell everything.
        round(&mut house, &mut fold, &Block::new(), &all, 0);
        for (second, (truth, restart)) in blocks.into_iter().enumerate() {
            if restart {
                let known: Vec<_> = fold.known.clone().into_iter().collect();
                house = House::new("vms/block", &known);
            }
            round(&mut house, &mut fold, &truth, &all, i64::try_from(second).unwrap() + 1);
            fold.check(&truth);
        }
    }
}
