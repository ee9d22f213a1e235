//! JSON for readers.

use serde::de::IgnoredAny;

/// Levels beyond this one are indented no further: what is nested deeply must not become many times as long.
const LEVELS_MAX: usize = 16;

/// JSON with a line for each value, every value as it is written; another text as it is.
pub fn indented(text: &str) -> String {
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return text.to_owned();
    }
    let mut lines = String::with_capacity(text.len() * 2);
    let (mut level, mut in_string, mut is_escaped) = (0_usize, false, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if in_string {
            lines.push(c);
            in_string = c != '"' || is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            continue;
        }
        match c {
            ' ' | '\n' | '\r' | '\t' => {}
            '{' | '[' => {
                lines.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                match chars.next_if(|c| matches!(c, '}' | ']')) {
                    Some(end) => lines.push(end),
                    None => {
                        level += 1;
                        start_line(&mut lines, level);
                    }
                }
            }
            '}' | ']' => {
                level = level.saturating_sub(1);
                start_line(&mut lines, level);
                lines.push(c);
            }
            ',' => {
                lines.push(c);
                start_line(&mut lines, level);
            }
            ':' => lines.push_str(": "),
            _ => {
                in_string = c == '"';
                lines.push(c);
            }
        }
    }
    lines
}

fn start_line(lines: &mut String, level: usize) {
    lines.push('\n');
    for _ in 0..level.min(LEVELS_MAX) {
        lines.push_str("  ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_as_they_are_written() {
        let text = r#"{"n":12345678901234567890123, "f":1.50,"s":"a\\\"{,:[", "e":{ },"l":[1,[ ]]}"#;
        let expected = "{\n  \"n\": 12345678901234567890123,\n  \"f\": 1.50,\n  \"s\": \"a\\\\\\\"{,:[\",\n  \"e\": {},\n  \
                        \"l\": [\n    1,\n    []\n  ]\n}";
        assert_eq!(indented(text), expected);
        assert_eq!(indented("no { json"), "no { json");
    }
}
