//! JSON texts, read without surprises: as values, or attribute by attribute without making values of the rest.
//!
//! Pure. Who hands in a text knows where it came from; nothing here trusts it.

mod indented;

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

pub use indented::indented;

/// A text that is not JSON, or not of the kind that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not JSON of the form that is needed")]
pub struct Malformed;

/// A value whose attributes are attributes, whatever they are called. The library would read the text under one certain name
/// as JSON again, without counting how deep it is in already.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plain(pub Value);

/// Reads a JSON text; at most 128 values inside one another.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str::<Plain>(text).map(|plain| plain.0)
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor).map(Self)
    }
}

struct PlainVisitor;

impl<'de> DeserializeSeed<'de> for PlainVisitor {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            members.insert(name, map.next_value_seed(Self)?);
        }
        Ok(Value::Object(members))
    }
}

/// Calls `each` with the attributes of the object that a JSON text is: name, name as written, value as written. Numbers and
/// words are passed on unread.
///
/// # Errors
/// A text that is no object.
pub fn members<'a>(json: &'a str, mut each: impl FnMut(&str, &'a str, &'a str)) -> Result<(), Malformed> {
    let mut scanner = Scanner { text: json, at: 0, is_escaped: false };
    scanner.all(b'{', b'}', |scanner| {
        let key = scanner.string().ok_or(Malformed)?;
        let is_escaped = scanner.is_escaped;
        scanner.expect(b':')?;
        let value = scanner.value().ok_or(Malformed)?;
        let plain = &key[1..key.len() - 1];
        // One that is no text, such as half a surrogate pair, is known by what was written.
        let decoded: Option<String> = is_escaped.then(|| serde_json::from_str(key).ok()).flatten();
        each(decoded.as_deref().unwrap_or(plain), key, value);
        Ok(())
    })
}

/// Calls `each` with the items of the list that a JSON text is, as written, until it says no.
///
/// # Errors
/// A text that is no list.
pub fn items<'a>(json: &'a str, mut each: impl FnMut(&'a str)) -> Result<(), Malformed> {
    let mut scanner = Scanner { text: json, at: 0, is_escaped: false };
    scanner.all(b'[', b']', |scanner| {
        each(scanner.value().ok_or(Malformed)?);
        Ok(())
    })
}

/// Walks over a text. Positions stand on character borders: it stops at ASCII only.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// The last string has escapes.
    is_escaped: bool,
}

/// Where the first quote or backslash is. Eight bytes at a time: in a byte that is zero, and in none before it, borrowing sets
/// the highest bit.
fn end_or_escape(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let (words, rest) = bytes.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if found != 0 {
            return Some(n * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(words.len() * 8 + found)
}

impl<'a> Scanner<'a> {
    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t'))?;
        self.text.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    /// Everything between two brackets that are the whole text, separated by commas.
    fn all(
        &mut self,
        open: u8,
        close: u8,
        mut one: impl FnMut(&mut Self) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.expect(open)?;
        if self.peek() == Some(close) {
            self.at += 1;
        } else {
            loop {
                self.peek();
                one(self)?;
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(byte) if byte == close => break self.at += 1,
                    _ => return Err(Malformed),
                }
            }
        }
        if self.peek().is_some() { Err(Malformed) } else { Ok(()) }
    }

    /// A string as written, with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        if bytes.get(start) != Some(&b'"') {
            return None;
        }
        let mut at = start + 1;
        self.is_escaped = false;
        loop {
            at += end_or_escape(bytes.get(at..)?)?;
            if bytes[at] == b'"' {
                self.at = at + 1;
                return self.text.get(start..self.at);
            }
            self.is_escaped = true;
            at += 2;
        }
    }

    /// Any value as written.
    fn value(&mut self) -> Option<&'a str> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => return self.string(),
            b'{' | b'[' => self.nested()?,
            _ => {
                let rest = &self.text.as_bytes()[start..];
                let end =
                    rest.iter().position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' | b':'));
                self.at += end.unwrap_or(rest.len());
            }
        }
        self.text.get(start..self.at).filter(|value| !value.is_empty())
    }

    /// Over an object or a list, however deep.
    fn nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match *self.text.as_bytes().get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_library_knows_is_a_name() {
        let text = r#"{"$serde_json::private::RawValue":"[1]","a":[1,-2,0.5,"x",null,true]}"#;
        let value = parse(text).expect("JSON");
        assert_eq!(value["$serde_json::private::RawValue"], "[1]");
        assert_eq!(value.to_string(), text);
        // Each level is read with a count of its own by the library.
        let mut deep = "[".repeat(100) + &"]".repeat(100);
        for _ in 0..8 {
            let text = Value::String(deep);
            deep = format!("{}{{\"$serde_json::private::RawValue\":{text}}}{}", "[".repeat(100), "]".repeat(100));
        }
        assert!(parse(&deep).is_ok());
        assert!(parse(&("[".repeat(200) + &"]".repeat(200))).is_err());
    }

    fn attributes(json: &str) -> Result<Vec<(String, String)>, Malformed> {
        let mut found = Vec::new();
        members(json, |name, _, value| found.push((name.to_owned(), value.to_owned())))?;
        Ok(found)
    }

    #[test]
    fn attributes_come_as_they_are_written() {
        let json = " { \"a\" : 1.50 , \"\\u0062\":\"x\\\"},\" ,\"c\":{\"d\":[\"]\"]}, \"é\" :null} ";
        let expected = [("a", "1.50"), ("b", "\"x\\\"},\""), ("c", "{\"d\":[\"]\"]}"), ("é", "null")];
        assert_eq!(attributes(json), Ok(expected.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()));
        assert_eq!(attributes("{}"), Ok(Vec::new()));
        let mut found = Vec::new();
        assert_eq!(items("[1, [2,3] ,\"4\"]", |item| found.push(item)), Ok(()));
        assert_eq!(found, ["1", "[2,3]", "\"4\""]);
    }

    #[test]
    fn the_end_of_a_string_is_found_at_any_place() {
        for length in 0..40 {
            for end in ["\"", "\\"] {
                for filler in ["a", "é", "\u{1}", "\u{7f}", "!", "#", "[", "]"] {
                    let text = filler.repeat(length);
                    let bytes = format!("{text}{end}{end}zzzzzzzzzzz");
                    assert_eq!(end_or_escape(bytes.as_bytes()), Some(text.len()), "{bytes}");
                    assert_eq!(end_or_escape(text.as_bytes()), None);
                }
            }
        }
    }

    #[test]
    fn what_is_no_object_is_refused_and_nothing_panics() {
        for json in [
            "",
            "1",
            "[]",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":1}x",
            "{\"a\":\"",
            "{\"a\\",
            "{\"a\":[}",
        ] {
            let refused = attributes(json).is_err();
            // A bracket of the wrong kind is the business of whoever reads that value.
            assert!(refused || json == "{\"a\":[}", "{json}");
        }
        assert!(items("[1 2]", |_| {}).is_err() && items("{}", |_| {}).is_err() && items("[", |_| {}).is_err());
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        let mut count = 0;
        assert_eq!(items(&deep, |_| count += 1), Ok(()));
        assert_eq!(count, 1);
    }
}
