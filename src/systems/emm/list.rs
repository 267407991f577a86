//! The pages of a list: when there is another one, and what they prove together about what is not
//! in them. A list that contradicts itself, or is none, proves nothing. Pure.

use serde_json::Value;

use super::alarms::Cover;
use super::inbox::{PAGE_MAX, PAGES_MAX};
use super::wire;

/// One answer.
#[derive(Debug)]
pub struct Page {
    /// What is in it.
    pub entries: Vec<Value>,
    /// It has a list, if only an empty one.
    is_list: bool,
    offset: Option<i64>,
    count: Option<i64>,
    total: Option<i64>,
}

/// The answers so far.
#[derive(Debug, Default)]
pub struct Pages {
    read: i64,
    pages: u32,
    total: Option<i64>,
    /// None was said to be there.
    is_said_empty: bool,
    flaw: Option<&'static str>,
}

impl Page {
    /// Reads an answer whose list is below `name`, or bare. A single object is read, and is no
    /// list.
    pub fn read(value: &Value, name: &str) -> Page {
        let number = |name: &str| value.get(name).and_then(wire::int);
        let (entries, is_list) = match value.get(name).unwrap_or(value) {
            Value::Array(list) => (list.clone(), true),
            one @ Value::Object(fields) if fields.contains_key("id") => (vec![one.clone()], false),
            _ => (Vec::new(), false),
        };
        let (offset, count, total) = (number("offset"), number("count"), number("total"));
        Page { entries, is_list, offset, count, total }
    }

    fn len(&self) -> i64 {
        self.entries.len() as i64
    }

    /// What it says against itself, if it comes after `read` entries.
    fn flaw(&self, read: i64, is_said_empty: bool) -> Option<&'static str> {
        let is_not = |said: Option<i64>, is: i64| said.is_some_and(|said| said != is);
        if !self.is_list && !is_said_empty {
            Some("the answer has no list")
        } else if is_not(self.count, self.len()) {
            Some("the list has not as many entries as its `count` says")
        } else if is_not(self.offset, read) {
            Some("the list does not begin where it was asked to")
        } else {
            None
        }
    }
}

impl Pages {
    /// Takes the next page; whether there is another one.
    pub fn take(&mut self, page: &Page) -> bool {
        let zero = |said: Option<i64>| said == Some(0);
        self.is_said_empty = self.read == 0
            && page.entries.is_empty()
            && (zero(page.total) || (page.total.is_none() && zero(page.count)));
        let is_other = self.total.zip(page.total).is_some_and(|(a, b)| a != b);
        let flaw = page.flaw(self.read, self.is_said_empty);
        self.note(flaw.or(is_other.then_some("its `total` changed between two pages")));
        self.total = page.total.or(self.total);
        self.read += page.len();
        self.pages += 1;
        let is_more = match self.total {
            Some(total) => total > self.read,
            None => page.len() >= PAGE_MAX,
        };
        if is_more && (page.entries.is_empty() || self.read >= PAGE_MAX * PAGES_MAX) {
            self.note(Some("the list ends before its `total`"));
            return false;
        }
        if self.total.is_some_and(|total| total < self.read) {
            self.note(Some("the list has more entries than its `total` says"));
        }
        is_more
    }

    /// Where the next page begins.
    pub fn offset(&self) -> i64 {
        self.read
    }

    /// Why it proves nothing, if that is so.
    pub fn flaw(&self) -> Option<&'static str> {
        self.flaw
    }

    /// Something else speaks against it.
    pub fn note(&mut self, flaw: Option<&'static str>) {
        self.flaw = self.flaw.or(flaw);
    }

    /// What the pages prove. Between two of them something may have slipped through, and an empty
    /// list may be an answer that went wrong: both are asked again.
    pub fn cover(&self) -> Cover {
        if self.flaw.is_some() {
            Cover::Partial
        } else if self.pages == 1 && (self.read > 0 || self.is_said_empty) {
            Cover::Whole
        } else {
            Cover::Likely
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cover(pages: &[Value]) -> (Cover, bool) {
        let mut read = Pages::default();
        let mut is_more = true;
        for page in pages {
            is_more = read.take(&Page::read(page, "alarms"));
        }
        (read.cover(), is_more)
    }

    #[test]
    fn a_list_that_is_none_or_contradicts_itself_proves_nothing() {
        for odd in [
            json!({ "offset": 0, "count": 0, "total": 3, "alarms": [] }),
            json!({ "offset": 0, "count": 3, "total": 3 }),
            json!({ "offset": 0, "count": 3, "total": 3, "alarms": null }),
            json!({ "offset": 0, "count": 0, "total": 3, "alarms": null }),
            json!({ "offset": 0, "count": 3, "total": 3, "alarms": [{}] }),
            json!({ "offset": 7, "total": 1, "alarms": [{}] }),
            json!({ "total": 0, "alarms": [{}] }),
            json!({ "total": -1, "alarms": [{}] }),
            json!({ "count": 1, "total": 0, "alarms": [] }),
            json!({}),
            json!(null),
            json!(7),
            json!({ "id": 1 }),
            json!({ "alarms": {} }),
        ] {
            assert_eq!(cover(std::slice::from_ref(&odd)).0, Cover::Partial, "{odd}");
        }
    }

    #[test]
    fn an_empty_list_proves_as_much_as_it_says() {
        let all = json!({ "offset": 0, "count": 0, "total": 0, "alarms": [] });
        assert_eq!(cover(&[all]), (Cover::Whole, false));
        assert_eq!(cover(&[json!({ "count": 0, "alarms": [] })]), (Cover::Whole, false));
        assert_eq!(cover(&[json!({ "total": 0, "alarms": null })]), (Cover::Whole, false));
        assert_eq!(cover(&[json!([])]), (Cover::Likely, false));
        assert_eq!(cover(&[json!({ "alarms": [] })]), (Cover::Likely, false));
        assert_eq!(cover(&[json!([{}])]), (Cover::Whole, false));
    }

    #[test]
    fn pages_are_asked_for_until_all_are_there() {
        let page = |offset: i64, count: usize, total: i64| {
            json!({ "offset": offset, "count": count, "total": total,
                "alarms": vec![json!({}); count] })
        };
        assert!(cover(&[page(0, 50, 130)]).1);
        assert_eq!(cover(&[page(0, 100, 130), page(100, 30, 130)]), (Cover::Likely, false));
        assert_eq!(cover(&[page(0, 100, 130), page(100, 0, 130)]), (Cover::Partial, false));
        assert_eq!(cover(&[page(0, 100, 130), page(100, 29, 129)]), (Cover::Partial, false));
        assert_eq!(cover(&[page(0, 3, 3)]), (Cover::Whole, false));
        // Without a total a full page may have a successor.
        let full = json!(vec![json!({}); PAGE_MAX as usize]);
        assert!(cover(std::slice::from_ref(&full)).1);
        assert_eq!(cover(&[full, json!([])]), (Cover::Likely, false));
    }
}
