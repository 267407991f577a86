use serde_json::json;

use super::*;

const SHOWS: &[u8] = include_bytes!("../../../../fixtures/vms/shows.json");
const CALLS: &[u8] = include_bytes!("../../../../fixtures/vms/calls.json");

#[test]
fn the_vendors_own_sample_is_read() {
    let list = intercoms(SHOWS).unwrap();
    assert_eq!((list.items.len(), &list.bad, list.more), (1, &None, false));
    let home = &list.items[0];
    assert_eq!((home.id, home.get("title")), (180, Some(&json!("Home"))));
    assert_eq!(home.get("is_online"), Some(&json!(true)));
    assert_eq!(home.get("created_at"), None);
    assert_eq!(home.fields["timetable"]["days"][2]["to"], "23:59:59");
    assert!(home.raw.starts_with(b"{") && home.raw.ends_with(b"}"));
}

#[test]
fn calls_are_read_with_their_intercom() {
    let list = calls(CALLS).unwrap();
    let [ring, ended, missed] = list.items.as_slice() else { panic!("{list:?}") };
    assert_eq!((ring.id.as_str(), &ring.status, ring.intercom), ("5547", &Status::Ring, Some(180)));
    assert_eq!(ring.created_at, Some("2022-02-04T16:10:00Z".parse().unwrap()));
    assert_eq!((ring.started_at, ring.title.as_deref()), (None, Some("Home")));
    assert_eq!(ended.ended_at, Some("2022-02-04T15:54:02Z".parse().unwrap()));
    assert_eq!((missed.intercom, missed.started_at), (Some(158), None));
    assert!(list.more);
}

#[test]
fn a_page_of_intercoms_is_a_list_too() {
    let page = json!({ "data": [{ "id": "7", "title": 12, "is_online": 1, "is_enabled": "maybe" }],
        "meta": { "current_page": 1, "last_page": 1 } });
    let list = intercoms(page.to_string().as_bytes()).unwrap();
    let fields = json!({ "id": 7, "title": "12", "is_online": true });
    assert_eq!(Value::Object(list.items[0].fields.clone()), fields);
    assert!(!list.more);
    for more in [
        json!({ "data": [], "links": { "next": "https://x/?page=2" } }),
        json!({ "data": [], "next_page_url": "https://x/?page=2" }),
        json!({ "data": [], "current_page": 1, "last_page": 2 }),
    ] {
        assert!(intercoms(more.to_string().as_bytes()).unwrap().more, "{more}");
    }
}

#[test]
fn what_cannot_be_read_is_told_and_spoils_nothing_else() {
    let list = intercoms(br#"[{"title":"no id"}, 7, null, {"id":1}]"#).unwrap();
    assert_eq!(list.items.len(), 1);
    let bad = list.bad.unwrap();
    assert_eq!(
        (bad.reason.as_str(), &*bad.raw),
        ("an intercom without id", &br#"{"title":"no id"}"#[..])
    );
    for body in ["", "<html>", "{}", "7", "\"x\"", "[1", "{\"data\":7}"] {
        assert!(intercoms(body.as_bytes()).is_err(), "{body}");
        assert!(calls(body.as_bytes()).is_err(), "{body}");
    }
    let list =
        calls(br#"[{"id":1},{"id":[],"status":"ring"},{"id":2,"status":"parked"}]"#).unwrap();
    assert_eq!(list.items[0].status, Status::Other("parked".into()));
    assert_eq!(list.bad.unwrap().reason, "a call without status");
}
