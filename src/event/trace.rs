//! Where an event stands in a distributed trace: the [W3C Trace Context](https://www.w3.org/TR/trace-context/) that its
//! metadata or its request carries.

use super::Event;
use crate::json;

pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";
/// Longer ones need not be passed on (section 3.3.1.5).
const STATE_BYTES_MAX: usize = 512;

/// Checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// As it came: `00-{trace id}-{parent id}-{flags}`.
    parent: String,
    pub state: Option<String>,
}

impl TraceContext {
    /// Nothing for a `traceparent` that is not of version 00 (section 3.2); a `tracestate` that can't be passed on is left
    /// out.
    pub fn new(parent: &str, state: Option<&str>) -> Option<Self> {
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |text: &str, length| is_hex(text, length) && text.bytes().any(|b| b != b'0');
        let mut parts = parent.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "00" || !is_id(trace, 32) || !is_id(span, 16) || !is_hex(flags, 2) || parts.next().is_some() {
            return None;
        }
        let is_plain = |state: &&str| {
            !state.is_empty() && state.len() <= STATE_BYTES_MAX && state.bytes().all(|b| matches!(b, b' '..=b'~'))
        };
        Some(Self { parent: parent.to_owned(), state: state.filter(is_plain).map(str::to_owned) })
    }

    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// Both headers.
    pub fn both(&self) -> (&str, Option<&str>) {
        (&self.parent, self.state.as_deref())
    }

    /// 32 hex digits.
    pub fn trace_id(&self) -> &str {
        &self.parent[3..35]
    }

    /// The `traceparent` of a step that follows: the same trace, and this step's own id (16 hex digits).
    pub fn child(&self, span: &str) -> String {
        format!("00-{}-{span}-{}", self.trace_id(), &self.parent[53..])
    }
}

impl Event {
    /// What its metadata says, at the top.
    pub fn trace_context(&self) -> Option<TraceContext> {
        let metadata = self.metadata.as_deref().filter(|metadata| metadata.contains(TRACEPARENT))?;
        let (mut parent, mut state) = (None, None);
        json::members(metadata, |name, _, value| match name {
            TRACEPARENT => parent = serde_json::from_str::<String>(value).ok(),
            TRACESTATE => state = serde_json::from_str::<String>(value).ok(),
            _ => {}
        })
        .ok()?;
        TraceContext::new(&parent?, state.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_what_the_grammar_allows_is_passed_on() {
        let context = TraceContext::new(PARENT, Some("vendor=1")).expect("valid");
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.child("1234567890abcdef"), "00-4bf92f3577b34da6a3ce929d0e0e4736-1234567890abcdef-01");
        assert_eq!(TraceContext::new(PARENT, Some("a\nb")).expect("valid").state, None);
        for wrong in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(TraceContext::new(wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn metadata_is_looked_at_at_its_top() {
        let event = |metadata: &str| Event { metadata: Some(metadata.to_owned()), ..Event::default() };
        let found = event(&format!(r#"{{"a": 1, "traceparent": "{PARENT}", "tracestate": "x=y"}}"#)).trace_context();
        assert_eq!(found, TraceContext::new(PARENT, Some("x=y")));
        assert_eq!(event(&format!(r#"{{"a": {{"traceparent": "{PARENT}"}}}}"#)).trace_context(), None);
        assert_eq!(event(r#"{"traceparent": 7}"#).trace_context(), None);
        assert_eq!(event("[\"traceparent\"]").trace_context(), None);
    }
}
