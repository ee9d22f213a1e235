//! Selection → JSON: picks attributes out of a JSON text without making a tree of it.
//!
//! What is picked is copied as it came, digit by digit and escape by escape, in the order of the text; everything
//! else is skipped unread. Pure, shared by the outlets.

use serde_json::Value;

use crate::json::{Malformed, items, members, parse};

/// Most paths of one pick.
pub const PATHS_MAX: usize = 50;
/// Longest path, and deepest nesting that is walked: each level reads its part of the text once more.
const LEVELS_MAX: usize = 32;

/// Paths that can't be used, and why.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("`pick` holds {0} paths, more than {PATHS_MAX}; ask for fewer")]
    TooMany(usize),
    #[error("`pick` holds `{0}`; give up to {LEVELS_MAX} attribute names joined by dots, such as `lines.sku`")]
    Path(String),
}

/// Dotted paths of attributes (`lines.sku`), as a tree of names. Lists on the way are walked, item by item.
#[derive(Clone, Debug, Default)]
pub struct Picks {
    /// A path ends here: the value is wanted whole.
    whole: bool,
    names: Vec<(String, Picks)>,
}

impl Picks {
    /// Reads the paths that a user wrote.
    ///
    /// # Errors
    /// Too many paths, or one that is too long or has an empty name.
    pub fn parse(paths: &[String]) -> Result<Self, Error> {
        if paths.len() > PATHS_MAX {
            return Err(Error::TooMany(paths.len()));
        }
        let mut root = Self::default();
        for path in paths {
            if path.split('.').count() > LEVELS_MAX || path.split('.').any(str::is_empty) {
                return Err(Error::Path(path.chars().take(100).collect()));
            }
            let last = path.split('.').fold(&mut root, |node, name| node.name(name));
            last.whole = true;
        }
        Ok(root)
    }

    fn name(&mut self, name: &str) -> &mut Self {
        let known = self.names.iter().position(|(known, _)| known == name);
        let index = known.unwrap_or_else(|| {
            self.names.push((name.to_owned(), Self::default()));
            self.names.len() - 1
        });
        &mut self.names[index].1
    }

    /// The picked paths and nothing else, nested as in `json`. A missing path is an absent attribute; an item of a
    /// list keeps its place as `{}`, or as `null` if it can't hold attributes.
    ///
    /// # Errors
    /// A text that is not JSON.
    pub fn apply(&self, json: &str) -> Result<String, Malformed> {
        let mut out = String::new();
        self.write(json.trim_start(), &mut out, 0)?;
        Ok(if out.is_empty() { "null".to_owned() } else { out })
    }

    /// Appends what is picked of an object or a list and tells whether that is anything; of other values nothing.
    fn write(&self, json: &str, out: &mut String, level: usize) -> Result<bool, Malformed> {
        match json.as_bytes().first() {
            _ if level > LEVELS_MAX => Ok(false),
            Some(b'{') => self.write_members(json, out, level),
            Some(b'[') => self.write_items(json, out, level),
            Some(_) => Ok(false),
            None => Err(Malformed),
        }
    }

    fn write_members(&self, json: &str, out: &mut String, level: usize) -> Result<bool, Malformed> {
        let mut found = false;
        out.push('{');
        members(json, |name, key, value| {
            let Some((_, picks)) = self.names.iter().find(|(known, _)| known == name) else { return };
            let before = out.len();
            out.push_str(if found { "," } else { "" });
            out.push_str(key);
            out.push(':');
            if picks.whole {
                out.push_str(value);
            } else if !picks.write(value, out, level + 1).unwrap_or(false) {
                out.truncate(before);
                return;
            }
            found = true;
        })?;
        out.push('}');
        Ok(found)
    }

    fn write_items(&self, json: &str, out: &mut String, level: usize) -> Result<bool, Malformed> {
        let (mut found, mut count) = (false, 0);
        out.push('[');
        items(json, |item| {
            out.push_str(if count > 0 { "," } else { "" });
            let before = out.len();
            found |= self.write(item, out, level + 1).unwrap_or(false);
            if out.len() == before {
                out.push_str("null");
            }
            count += 1;
        })?;
        out.push(']');
        Ok(found || count == 0)
    }
}

/// A path of attributes and the value that it must lead to. Lists on the way are walked: one item is enough.
#[derive(Clone, Debug)]
pub struct Match {
    path: Vec<String>,
    value: Value,
}

impl Match {
    /// # Errors
    /// A path that is too long or has an empty name.
    pub fn new(path: &str, value: Value) -> Result<Self, Error> {
        let names: Vec<String> = path.split('.').map(str::to_owned).collect();
        if names.len() > LEVELS_MAX || names.iter().any(String::is_empty) {
            return Err(Error::Path(path.chars().take(100).collect()));
        }
        Ok(Self { path: names, value })
    }

    /// Whether a JSON text has the value at the path. Numbers are equal if their values are.
    pub fn holds(&self, json: &str) -> bool {
        holds(json, &self.path, &self.value, 0)
    }
}

fn holds(json: &str, path: &[String], value: &Value, level: usize) -> bool {
    let json = json.trim_start();
    let mut found = false;
    match (json.as_bytes().first(), path) {
        _ if level > LEVELS_MAX => return false,
        (Some(b'{'), [name, rest @ ..]) => {
            let read = members(json, |known, _, member| {
                found |= !found && known == name && holds(member, rest, value, level + 1);
            });
            return read.is_ok() && found;
        }
        (Some(b'['), _) => {
            let read = items(json, |item| found |= !found && holds(item, path, value, level + 1));
            if read.is_ok() && found {
                return true;
            }
        }
        _ => {}
    }
    path.is_empty() && parse(json).is_ok_and(|known| equal(&known, value))
}

fn equal(one: &Value, two: &Value) -> bool {
    match (one, two) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64(),
        _ => one == two,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(json: &str, paths: &[&str]) -> String {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        Picks::parse(&paths).expect("usable paths").apply(json).expect("JSON")
    }

    #[test]
    fn picks_hold_the_picked_paths_and_nothing_else() {
        let json = r#" {"id":7,"lines":[{"sku":"a","qty":1},{"qty":2},{"sku":"b"}],"to":{"city":"X","zip":"1"}}"#;
        assert_eq!(pick(json, &["lines.sku"]), r#"{"lines":[{"sku":"a"},{},{"sku":"b"}]}"#);
        assert_eq!(pick(json, &["to.zip", "id"]), r#"{"id":7,"to":{"zip":"1"}}"#);
        assert_eq!(pick(json, &["to.zip", "to"]), r#"{"to":{"city":"X","zip":"1"}}"#);
        assert_eq!(pick(json, &["to.none", "none", "id.x"]), "{}");
        assert_eq!(pick(json, &[]), "{}");
    }

    #[test]
    fn lists_are_walked_and_other_values_hold_no_attributes() {
        assert_eq!(pick(r#"[{"a":1,"b":2},[{"a":3}],5]"#, &["a"]), r#"[{"a":1},[{"a":3}],null]"#);
        assert_eq!(pick(r#"{"a":[],"b":[1,2],"c":1e999}"#, &["a.x", "b.x", "c.x"]), r#"{"a":[]}"#);
        assert_eq!(pick("5", &["a"]), "null");
    }

    #[test]
    fn values_and_keys_are_copied_as_they_came() {
        let json =
            r#"{"n":123456789012345678901.10,"e":1E400,"\u0061":"\ud800","$serde_json::private::RawValue":"[1]"}"#;
        let expected = r#"{"n":123456789012345678901.10,"e":1E400,"\u0061":"\ud800"}"#;
        assert_eq!(pick(json, &["a", "n", "e"]), expected);
        let token = "$serde_json::private::RawValue";
        assert_eq!(pick(json, &[token]), r#"{"$serde_json::private::RawValue":"[1]"}"#);
        assert_eq!(pick(r#"{"\ud800":1,"b":2}"#, &["b"]), r#"{"b":2}"#);
    }

    #[test]
    fn a_match_looks_for_a_value_at_a_path() {
        let json = r#"{"id":7,"lines":[{"sku":"a"},{"sku":"b","n":1.0}],"tags":["x","y"],"none":null}"#;
        let holds = |path: &str, value: &str| {
            Match::new(path, serde_json::from_str(value).expect("JSON")).expect("a path").holds(json)
        };
        for (path, value) in [
            ("id", "7"),
            ("id", "7.0"),
            ("lines.sku", "\"b\""),
            ("lines.n", "1"),
            ("tags", "\"y\""),
            ("tags", r#"["x","y"]"#),
            ("none", "null"),
        ] {
            assert!(holds(path, value), "{path} {value}");
        }
        for (path, value) in
            [("id", "\"7\""), ("lines.sku", "\"c\""), ("missing", "null"), ("id.x", "7"), ("tags", "[]")]
        {
            assert!(!holds(path, value), "{path} {value}");
        }
        assert!(Match::new("a..b", Value::Null).is_err());
    }

    #[test]
    fn hostile_texts_do_not_crash() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(pick(&format!(r#"{{"a":{deep},"b":1}}"#), &["b"]), r#"{"b":1}"#);
        assert_eq!(pick(&format!(r#"{{"a":{deep},"b":1}}"#), &["a.x", "b"]), r#"{"b":1}"#);
        assert_eq!(pick(r#"{"a":1,"a":{"b":2},"a":3}"#, &["a"]), r#"{"a":1,"a":{"b":2},"a":3}"#);
        assert!(Picks::parse(&["a".to_owned()]).expect("usable").apply("{\"a\":").is_err());
    }

    #[test]
    fn paths_are_bounded_and_checked() {
        assert_eq!(Picks::parse(&vec!["a".to_owned(); 51]).map(|_| ()), Err(Error::TooMany(51)));
        for bad in ["", ".", "a..b", "a.", &["a"; 33].join(".")] {
            assert_eq!(Picks::parse(&[bad.to_owned()]).map(|_| ()), Err(Error::Path(bad.to_owned())), "{bad}");
        }
    }
}
