//! What a push carries: JSON for our service worker that is a declarative push as well, so that a
//! browser can show it when the worker cannot run. Small enough for every push service; longer
//! texts are shortened on a word. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::Serialize;
use subtle::ConstantTimeEq as _;
use url::Url;

use crate::action::{ActionId, Button, Message, PhoneId};
use crate::event::{EventId, digest128};
use crate::secret::Secret;

/// The plaintext's limit. The standard allows 3993 bytes, but services that hand the message on
/// as base64 in a 4096-byte envelope take only about 2.7 kB.
pub const PAYLOAD_BYTES_MAX: usize = 2500;
/// The limit of the form that is sent after a 413: the text's beginning and nothing else.
pub const SHORT_BYTES_MAX: usize = 1000;
/// If less room than this is left for the texts, the image goes before the words do.
pub const TEXT_BYTES_KEPT: usize = 1000;
/// Longer tags are replaced by their digest: equal tags stay equal.
pub const TAG_BYTES_MAX: usize = 128;
/// A longer address of a page, escapes counted, is replaced by our first page.
pub const PAGE_BYTES_MAX: usize = 400;
/// A longer address of a picture is left out; a real snapshot's has 200 to 500 bytes.
pub const IMAGE_BYTES_MAX: usize = 1200;
/// Longest `Topic` (RFC 8030 section 5.4).
pub const TOPIC_CHARS_MAX: usize = 32;

/// A longer title of a button is cut; phones show some twenty letters.
const BUTTON_CHARS_MAX: usize = 40;

/// Shown where a rule's title came out empty: a notification must have one.
const TITLE_IF_EMPTY: &str = "Portero";
const ELLIPSIS: char = '…';
/// Says that the JSON is a declarative push message (W3C Push API, declarative push).
const DECLARATIVE: u16 = 8030;

/// Which form of a message to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Everything that fits in [`PAYLOAD_BYTES_MAX`].
    #[default]
    Full,
    /// No image, little text: the push service found the full form too big.
    Short,
}

/// Turns messages into payloads.
#[derive(Debug, Clone)]
pub struct Composer {
    public_url: Url,
    receipt_key: Secret,
}

impl Composer {
    /// `public_url` is where the phone finds our page; `receipt_key` signs receipt tokens.
    pub fn new(public_url: Url, receipt_key: Secret) -> Composer {
        Composer { public_url, receipt_key }
    }

    /// The payload of one message for one phone: JSON of at most [`PAYLOAD_BYTES_MAX`] bytes, or
    /// [`SHORT_BYTES_MAX`] in the short form.
    pub fn compose(
        &self,
        action: &ActionId,
        phone: &PhoneId,
        message: &Message,
        form: Form,
    ) -> String {
        let event = message.url.as_deref().and_then(event_in);
        let title = if message.title.is_empty() { TITLE_IF_EMPTY } else { &message.title };
        let image = message.image.as_deref().filter(|_| form == Form::Full);
        let buttons = message.buttons.iter().filter(|_| form == Form::Full);
        let payload = Payload {
            web_push: DECLARATIVE,
            notification: Notification {
                title: title.to_owned(),
                body: message.body.clone(),
                navigate: navigate(&self.public_url, message.url.as_deref()),
                tag: message.tag.as_deref().map(bounded_tag),
                silent: message.clears.is_some(),
                image: image.filter(|image| is_picture_address(image)).map(str::to_owned),
                actions: buttons.map(|button| self.button(button)).collect(),
            },
            mutable: true,
            portero: Ours {
                action: action.to_string(),
                token: receipt_token(&self.receipt_key, action, phone),
                event: event.map(|id| id.to_string()),
                alert: message.alert.map(|id| id.to_string()),
                clears: message.clears.map(|id| id.to_string()),
            },
        };
        match form {
            Form::Full => payload.fit(PAYLOAD_BYTES_MAX),
            Form::Short => payload.fit(SHORT_BYTES_MAX),
        }
    }

    /// A button leads to a page that asks, as declarative push has it.
    fn button(&self, button: &Button) -> PayloadAction {
        PayloadAction {
            action: format!("open:{}", button.open),
            title: button.title.chars().take(BUTTON_CHARS_MAX).collect(),
            navigate: navigate(&self.public_url, Some(&button.url)),
        }
    }
}

#[derive(Serialize)]
struct PayloadAction {
    action: String,
    title: String,
    navigate: String,
}

#[derive(Serialize)]
struct Payload {
    web_push: u16,
    notification: Notification,
    /// Lets a service worker change the notification before it is shown.
    mutable: bool,
    portero: Ours,
}

#[derive(Serialize)]
struct Notification {
    title: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    body: String,
    navigate: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    /// Neither sound nor vibration (W3C Notifications API, `silent`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    silent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    actions: Vec<PayloadAction>,
}

/// What our own service worker needs to send a receipt.
#[derive(Serialize)]
struct Ours {
    action: String,
    token: String,
    event: Option<String>,
    /// Offers to acknowledge it.
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<String>,
    /// Whatever else is shown of this alert goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    clears: Option<String>,
}

impl Payload {
    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings serialise into memory")
    }

    /// Shortens the body, then the title, until the JSON fits; the image goes first if it would
    /// leave the words too little room, then the buttons.
    fn fit(mut self, limit: usize) -> String {
        let json = self.to_json();
        if json.len() <= limit {
            return json;
        }
        let texts = json_cost(&self.notification.title) + json_cost(&self.notification.body);
        let room = |whole: &Payload| limit.saturating_sub(whole.to_json().len() - texts);
        let kept = TEXT_BYTES_KEPT.min(texts);
        if room(&self) < kept {
            self.notification.image = None;
        }
        if room(&self) < kept {
            self.notification.actions.clear();
        }
        let room = room(&self);
        let title = cut(&self.notification.title, room);
        // Where even the title is cut, a few letters of body would say nothing.
        let whole = title == self.notification.title;
        let left = if whole { room - json_cost(&title) } else { 0 };
        let body = cut(&self.notification.body, left);
        self.notification.title = title;
        self.notification.body = body;
        self.to_json()
    }
}

/// The longest beginning of `text` that costs at most `room` bytes as JSON, ended on a word and
/// marked with "…" if something is missing; empty if not even a character has room.
fn cut(text: &str, room: usize) -> String {
    if json_cost(text) <= room {
        return text.to_owned();
    }
    let Some(room) = room.checked_sub(ELLIPSIS.len_utf8()) else { return String::new() };
    let mut used = 0;
    let fits = |c: &char| {
        used += char_cost(*c);
        used <= room
    };
    let end = text.chars().take_while(fits).map(char::len_utf8).sum();
    let (head, tail) = text.split_at(end);
    let on_word = match head.rfind(char::is_whitespace) {
        // A single word longer than half the room is cut inside rather than lost.
        Some(space) if !tail.starts_with(char::is_whitespace) && space * 2 >= end => &head[..space],
        _ => head,
    };
    match on_word.trim_end() {
        "" => String::new(),
        kept => format!("{kept}{ELLIPSIS}"),
    }
}

/// Bytes of `text` inside JSON quotes.
fn json_cost(text: &str) -> usize {
    text.chars().map(char_cost).sum()
}

/// Bytes of one character inside JSON quotes, as `serde_json` writes it.
fn char_cost(c: char) -> usize {
    match c {
        '"' | '\\' | '\u{8}' | '\u{c}' | '\n' | '\r' | '\t' => 2,
        '\0'..='\u{1f}' => 6,
        c => c.len_utf8(),
    }
}

/// Where a tap leads: always a page of ours, whatever a rule's template made of `url`.
fn navigate(public_url: &Url, url: Option<&str>) -> String {
    let base = public_url.as_str().trim_end_matches('/');
    let home = || format!("{base}/");
    let Some(url) = url else { return home() };
    let within = || Url::parse(&format!("{base}/{}", url.trim_start_matches('/')));
    match Url::parse(url).or_else(|_| within()) {
        Ok(page)
            if page.origin() == public_url.origin() && page.as_str().len() <= PAGE_BYTES_MAX =>
        {
            page.to_string()
        }
        _ => home(),
    }
}

/// The event that a page address of the form `/#event=<id>` is about; the page's own rows are
/// anchors of the form `#event-<id>`.
fn event_in(url: &str) -> Option<EventId> {
    url.split_once("#event")?.1.strip_prefix(['=', '-'])?.parse().ok()
}

fn is_picture_address(image: &str) -> bool {
    let scheme = image.starts_with("https://") || image.starts_with("http://");
    scheme && json_cost(image) <= IMAGE_BYTES_MAX
}

fn bounded_tag(tag: &str) -> String {
    if json_cost(tag) <= TAG_BYTES_MAX { tag.to_owned() } else { digest_text(tag) }
}

fn digest_text(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest128([text]))
}

/// The `Topic` header for a tag: the push service keeps only the newest waiting message of each.
/// A tag that the header cannot carry is replaced by its digest.
pub fn topic(tag: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let fits = !tag.is_empty() && tag.len() <= TOPIC_CHARS_MAX && tag.bytes().all(plain);
    if fits { tag.to_owned() } else { digest_text(tag) }
}

/// What a phone shows to prove that it received this action: its id and 128 bits of HMAC-SHA256
/// over action and phone, base64url. Worth nothing for any other action or phone.
pub fn receipt_token(key: &Secret, action: &ActionId, phone: &PhoneId) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(b"portero receipt\0");
    context.update(&action.0);
    context.update(phone.0.as_bytes());
    format!("{phone}.{}", URL_SAFE_NO_PAD.encode(&context.sign().as_ref()[..16]))
}

/// The phone whose token for this action `offered` is; compared in constant time.
pub fn verify_receipt(key: &Secret, action: &ActionId, offered: &str) -> Option<PhoneId> {
    let phone = PhoneId(offered.split_once('.')?.0.to_owned());
    let token = receipt_token(key, action, &phone);
    bool::from(token.as_bytes().ct_eq(offered.as_bytes())).then_some(phone)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::alert::AlertId;

    const EVENT: &str = "0123456789abcdef0123456789abcdef";

    fn composer(public_url: &str) -> Composer {
        Composer::new(public_url.parse().unwrap(), Secret::new("key"))
    }

    fn compose(message: &Message, form: Form) -> Value {
        let phone = PhoneId("00112233aabbccdd".into());
        let json =
            composer("https://home.example.org").compose(&ActionId([7; 16]), &phone, message, form);
        let limit = if form == Form::Full { PAYLOAD_BYTES_MAX } else { SHORT_BYTES_MAX };
        assert!(json.len() <= limit, "{} bytes", json.len());
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_button_leads_to_a_page_of_ours() {
        let url = format!("/#door=front&event={EVENT}");
        let button = Button { title: "Open".into(), open: "front".into(), url };
        let message = Message { title: "Bell".into(), buttons: vec![button], ..Message::default() };
        let want = serde_json::json!([{
            "action": "open:front",
            "title": "Open",
            "navigate": format!("https://home.example.org/#door=front&event={EVENT}"),
        }]);
        assert_eq!(compose(&message, Form::Full)["notification"]["actions"], want);
        assert_eq!(compose(&message, Form::Short)["notification"].get("actions"), None);
    }

    #[test]
    fn a_message_becomes_a_declarative_push() {
        let message = Message {
            title: "Someone is at the door".into(),
            body: "The doorbell rang".into(),
            image: Some("https://netatmo.example/snapshot?id=1".into()),
            url: Some(format!("/#event={EVENT}")),
            tag: Some("ring-17".into()),
            ..Message::default()
        };
        let token = receipt_token(
            &Secret::new("key"),
            &ActionId([7; 16]),
            &PhoneId("00112233aabbccdd".into()),
        );
        assert_eq!(token.len(), 16 + 1 + 22);
        let want = serde_json::json!({
            "web_push": 8030,
            "notification": {
                "title": "Someone is at the door",
                "body": "The doorbell rang",
                "navigate": format!("https://home.example.org/#event={EVENT}"),
                "tag": "ring-17",
                "image": "https://netatmo.example/snapshot?id=1",
            },
            "mutable": true,
            "portero": { "action": "07".repeat(16), "token": token, "event": EVENT },
        });
        assert_eq!(compose(&message, Form::Full), want);
    }

    #[test]
    fn the_note_that_somebody_has_it_is_silent() {
        let alert = AlertId([9; 16]);
        let tag = Some("smoke".to_owned());
        let told = Message { alert: Some(alert), tag: tag.clone(), ..Message::default() };
        let json = compose(&told, Form::Full);
        assert_eq!(json["notification"].get("silent"), None);
        assert_eq!(json["portero"].get("clears"), None);
        for form in [Form::Full, Form::Short] {
            let note = Message { clears: Some(alert), tag: tag.clone(), ..Message::default() };
            let json = compose(&note, form);
            assert_eq!(json["notification"]["silent"], true);
            assert_eq!(json["portero"]["clears"], alert.to_string());
            assert_eq!(json["portero"].get("alert"), None);
        }
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let json = compose(&Message::default(), Form::Full);
        let notification = json["notification"].as_object().unwrap();
        assert_eq!(notification.len(), 2);
        assert_eq!(notification["title"], "Portero");
        assert_eq!(notification["navigate"], "https://home.example.org/");
        assert_eq!(json["portero"]["event"], Value::Null);
    }

    #[test]
    fn a_tap_never_leads_away_from_our_page() {
        let check = |base: &str, url: Option<&str>, want: &str| {
            assert_eq!(navigate(&base.parse().unwrap(), url), want, "{base} {url:?}");
        };
        let home = "https://h.org/";
        check("https://h.org", None, home);
        check("https://h.org", Some("/doors/1"), "https://h.org/doors/1");
        check("https://h.org/portero/", Some("/doors/1"), "https://h.org/portero/doors/1");
        check("https://h.org", Some("#event-1"), "https://h.org/#event-1");
        check("https://h.org", Some("https://h.org/x"), "https://h.org/x");
        check("https://h.org", Some("https://evil.org/x"), home);
        check("https://h.org", Some("//evil.org/x"), "https://h.org/evil.org/x");
        check("https://h.org", Some("javascript:alert(1)"), home);
        check("https://h.org", Some(&"x".repeat(3000)), home);
    }

    #[test]
    fn the_body_is_cut_before_the_title_and_on_a_word() {
        let words = "Wörter ".repeat(1000);
        let message = Message { title: "Title".into(), body: words, ..Message::default() };
        let json = compose(&message, Form::Full);
        let body = json["notification"]["body"].as_str().unwrap();
        assert!(body.ends_with("Wörter…") && body.len() > 1500, "{body}");
        assert_eq!(json["notification"]["title"], "Title");

        let message = Message { title: "ab ".repeat(2000), body: "b".into(), ..Message::default() };
        let json = compose(&message, Form::Full);
        assert!(json["notification"]["title"].as_str().unwrap().ends_with("ab…"));
        assert_eq!(json["notification"].get("body"), None);
    }

    #[test]
    fn the_image_goes_before_the_words_do() {
        let of = |image_bytes: usize, body_bytes: usize, form| {
            let message = Message {
                image: Some(format!("https://x.org/{}", "i".repeat(image_bytes))),
                url: Some(format!("/{}", "u".repeat(350))),
                body: "word ".repeat(body_bytes / 5),
                ..Message::default()
            };
            let json = compose(&message, form);
            let body = json["notification"]["body"].as_str().unwrap().len();
            (json["notification"].get("image").is_some(), body)
        };
        assert_eq!(of(500, 1000, Form::Full), (true, 1000));
        let (image, body) = of(500, 9000, Form::Full);
        assert!(image && body > TEXT_BYTES_KEPT);
        let (image, body) = of(1100, 9000, Form::Full);
        assert!(!image && body > 1500);
        assert_eq!(of(1100, 500, Form::Full), (true, 500));
        assert_eq!(of(1300, 500, Form::Full), (false, 500));
        let (image, body) = of(500, 9000, Form::Short);
        assert!(!image && body > 100);
    }

    #[test]
    fn a_cut_keeps_to_its_room() {
        let check = |text: &str, room: usize, want: &str| assert_eq!(cut(text, room), want);
        check("one two three", 13, "one two three");
        check("one two three", 12, "one two…");
        check("one two three", 10, "one two…");
        check("one two three", 9, "one…");
        check("onetwothree", 8, "onetw…");
        check("ééé", 5, "é…");
        check("ééé", 4, "");
        check("abc", 2, "");
        check("\"\"\"\"", 7, "\"\"…");
        check("   abcdef", 6, "");
    }

    #[test]
    fn a_topic_is_what_the_header_allows() {
        assert_eq!(topic("ring-17_A"), "ring-17_A");
        for tag in ["", "ring 17", "ring/17", "größe", &"x".repeat(33)] {
            let topic = topic(tag);
            assert_eq!(topic.len(), 22, "{tag}");
            assert!(topic.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        }
        assert_ne!(topic("ring 17"), topic("ring 18"));
    }

    #[test]
    fn an_event_is_found_in_the_pages_addresses() {
        let event = EVENT.parse().ok();
        assert_eq!(event_in(&format!("/#event={EVENT}")), event);
        assert_eq!(event_in(&format!("#event-{EVENT}")), event);
        for url in ["/", "/#event=", "/#event=12", "/#events", "/doors/1"] {
            assert_eq!(event_in(url), None, "{url}");
        }
    }

    #[test]
    fn a_receipt_token_is_good_for_one_action_on_one_phone() {
        let (key, action, phone) =
            (Secret::new("k"), ActionId([1; 16]), PhoneId("00112233aabbccdd".into()));
        let token = receipt_token(&key, &action, &phone);
        let check = |key: &Secret, action, offered: &str| verify_receipt(key, &action, offered);
        assert_eq!(check(&key, action, &token), Some(phone));
        assert_eq!(check(&key, ActionId([2; 16]), &token), None);
        assert_eq!(check(&Secret::new("other"), action, &token), None);
        let stolen = token.replace("00112233aabbccdd", "ffffffffffffffff");
        for offered in [&stolen, &token[1..], &token[..token.len() - 1], ".", "", "x"] {
            assert_eq!(check(&key, action, offered), None, "{offered}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_message_fits_and_keeps_its_beginning(
            title in ".{0,2000}", body in "(\\PC|[\\x00-\\x1f\"\\\\ ]){0,3000}",
            url in proptest::option::of(".{0,700}"), tag in proptest::option::of(".{0,300}"),
            image in proptest::option::of("https://.{0,700}"), short: bool,
            buttons in proptest::collection::vec((".{0,100}", "[a-z]{1,2000}"), 0..3),
        ) {
            let button = |(title, open): (String, String)| {
                let url = format!("/#door={open}&event={EVENT}");
                Button { title, open, url }
            };
            let buttons = buttons.into_iter().map(button).collect();
            let message = Message { title, body, url, tag, image, buttons, ..Message::default() };
            let form = if short { Form::Short } else { Form::Full };
            let json = compose(&message, form);
            let starts = |shown: &Value, whole: &str| {
                let shown = shown.as_str().unwrap_or_default();
                shown == whole || whole.starts_with(shown.trim_end_matches(ELLIPSIS))
            };
            if !message.title.is_empty() {
                prop_assert!(starts(&json["notification"]["title"], &message.title));
            }
            prop_assert!(starts(&json["notification"]["body"], &message.body));
        }
    }
}
