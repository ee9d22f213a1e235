//! How much a document asks for, known before anything of it is validated or run.
//!
//! The text is scanned before the parser sees it, as the parser recurses without a bound; the document is measured
//! before the engine sees it, as the engine unfolds fragments without one. Each fragment is measured once.

use std::collections::HashMap;

use async_graphql::parser::types::{
    ExecutableDocument, Field, OperationDefinition, OperationType, Selection, SelectionSet,
};
use async_graphql::{Name, Value, Variables};

use super::connection::{PAGE_DEFAULT, PAGE_MAX};
use super::event::{EVENT, NODE};
use super::failure::{Failure, TOO_COMPLEX, TOO_DEEP, VALIDATION};
use super::schema::IDS_MAX;

/// Tokens as written, punctuation included.
const TOKENS_MAX: usize = 5_000;
/// Brackets inside brackets; the deepest document that is useful has some 20.
const BRACKETS_MAX: usize = 60;
const DEPTH_MAX: usize = 16;
/// Selection sets and fragments inside one another: the engine walks them by recursion.
const LEVELS_MAX: usize = 30;
const ROOTS_MAX: usize = 20;
/// Selections after fragments are unfolded: scalars cost nothing, but a small text can hold very many.
const SELECTIONS_MAX: usize = 5_000;
/// Lists of fields and types inside one another in an introspection: each level multiplies the answer, by about ten.
const INTROSPECTION_LISTS_MAX: usize = 2;
const INTROSPECTION_LIST: u64 = 10;
pub(super) const COST_MAX: u64 = 5_000;
/// Values in an answer, as far as they can be counted before: scalars cost nothing, but a small text can ask for very many.
const VALUES_MAX: u64 = 200_000;
/// Types of events, of which `eventTypes` may list so many without being counted.
const EVENT_TYPES: u64 = 200;

/// How large the schema is: introspection lists all of it.
pub(super) struct Extent {
    pub(super) types: usize,
    /// Of all types together.
    pub(super) fields: usize,
}

impl Extent {
    /// Introspection of everything may take more.
    fn values_max(&self) -> u64 {
        VALUES_MAX.max(100 * self.fields as u64)
    }

    /// How many items a list that is no connection has, on average.
    fn items(&self, list: &str) -> u64 {
        match list {
            "types" => self.types as u64,
            "fields" | "inputFields" => (self.fields / self.types.max(1) + 1) as u64,
            "enumValues" | "possibleTypes" | "interfaces" | "args" | "directives" | "locations" => 4,
            "eventTypes" => EVENT_TYPES,
            "feeds" | "sources" => 10,
            _ => 1,
        }
    }
}

/// Refuses a text that is too long, or nested so deep that parsing it could exhaust the stack.
pub(super) fn scan(text: &str) -> Result<(), Failure> {
    let (mut tokens, mut nesting) = (0, 0_usize);
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b' ' | b'\t' | b'\r' | b'\n' | b',' => continue,
            b'#' => {
                rest = &rest[rest.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(rest.len())..];
                continue;
            }
            b'{' | b'[' | b'(' => nesting += 1,
            b'}' | b']' | b')' => nesting = nesting.saturating_sub(1),
            b'"' => rest = after_string(rest),
            b'_' | b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                let end = rest.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_');
                rest = &rest[end.unwrap_or(rest.len())..];
            }
            b'.' => rest = rest.strip_prefix(b"..").unwrap_or(rest),
            _ => {}
        }
        tokens += 1;
        if tokens > TOKENS_MAX {
            return Err(Failure::new(TOO_COMPLEX, format!("the document has more than {TOKENS_MAX} tokens")));
        }
        if nesting > BRACKETS_MAX {
            return Err(Failure::new(TOO_DEEP, format!("more than {BRACKETS_MAX} brackets inside one another")));
        }
    }
    Ok(())
}

/// What follows a string whose opening quote was read.
fn after_string(text: &[u8]) -> &[u8] {
    let block = text.starts_with(b"\"\"");
    let mut at = if block { 2 } else { 0 };
    while let Some(byte) = text.get(at) {
        match byte {
            b'\\' if !block || text[at..].starts_with(b"\\\"\"\"") => at += if block { 4 } else { 2 },
            b'"' if !block => return &text[at + 1..],
            b'"' if text[at..].starts_with(b"\"\"\"") => return &text[at + 3..],
            // Not closed on its line: the parser will say so.
            b'\r' | b'\n' if !block => return &text[at..],
            _ => at += 1,
        }
    }
    &[]
}

/// Refuses a document that unfolds into too much, whatever its variables are. Other operations than the one that will run
/// count too: they are validated with it.
pub(super) fn check(document: &ExecutableDocument, introspection: bool) -> Result<(), Failure> {
    let nothing = Variables::default();
    for (_, operation) in document.operations.iter() {
        let mut walk = Walk::new(document, &operation.node, &nothing);
        walk.introspection = introspection;
        for name in document.fragments.keys() {
            walk.fragment(name, 0)?;
        }
        let size = walk.set(&operation.node.selection_set.node, 0)?;
        if size.roots > ROOTS_MAX {
            let detail = format!("{} root selections, more than {ROOTS_MAX}", size.roots);
            return Err(Failure::new(TOO_COMPLEX, detail));
        }
        if size.depth > DEPTH_MAX || size.lists > INTROSPECTION_LISTS_MAX {
            let detail = format!("fields are nested deeper than {DEPTH_MAX}, or lists of types");
            return Err(Failure::new(TOO_DEEP, detail));
        }
    }
    Ok(())
}

/// The cost of an operation: scalars 0, objects 1, connections × page size; of fragments on different types of events
/// the dearest counts. Refuses one that costs too much.
pub(super) fn cost(
    document: &ExecutableDocument,
    operation: &OperationDefinition,
    variables: &Variables,
    extent: &Extent,
) -> Result<u64, Failure> {
    let mut walk = Walk::new(document, operation, variables);
    walk.extent = Some(extent);
    let size = walk.set(&operation.selection_set.node, 0)?;
    if size.values.saturating_add(size.values_each) > extent.values_max() {
        let detail = format!("the answer would have some {} values; ask for less", size.values);
        return Err(Failure::new(TOO_COMPLEX, detail));
    }
    let cost = size.once.saturating_add(size.each);
    if cost > COST_MAX {
        let detail = format!("the query costs {cost}, more than {COST_MAX}; ask for smaller pages");
        return Err(Failure::new(TOO_COMPLEX, detail));
    }
    Ok(cost)
}

/// The size of a selection set. `each` is the part that a connection has once an edge.
#[derive(Clone, Copy, Default)]
struct Size {
    roots: usize,
    selections: usize,
    depth: usize,
    lists: usize,
    once: u64,
    each: u64,
    /// Values of any kind, and those that a connection has once an edge.
    values: u64,
    values_each: u64,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.roots = self.roots.saturating_add(other.roots);
        self.selections = self.selections.saturating_add(other.selections);
        self.depth = self.depth.max(other.depth);
        self.lists = self.lists.max(other.lists);
        self.once = self.once.saturating_add(other.once);
        self.each = self.each.saturating_add(other.each);
        self.values = self.values.saturating_add(other.values);
        self.values_each = self.values_each.saturating_add(other.values_each);
    }
}

struct Walk<'a> {
    document: &'a ExecutableDocument,
    operation: &'a OperationDefinition,
    variables: &'a Variables,
    introspection: bool,
    /// Nothing: only the form is of interest.
    extent: Option<&'a Extent>,
    /// Nothing: being measured right now.
    fragments: HashMap<&'a Name, Option<Size>>,
}

impl<'a> Walk<'a> {
    fn new(document: &'a ExecutableDocument, operation: &'a OperationDefinition, variables: &'a Variables) -> Self {
        Self { document, operation, variables, introspection: true, extent: None, fragments: HashMap::new() }
    }

    fn set(&mut self, set: &'a SelectionSet, level: usize) -> Result<Size, Failure> {
        if level > LEVELS_MAX {
            return Err(Failure::new(TOO_DEEP, format!("selections are nested deeper than {LEVELS_MAX}")));
        }
        let mut sum = Size::default();
        // An event is of one type: by the type that fragments are on.
        let mut by_type: HashMap<&Name, Size> = HashMap::new();
        for selection in &set.items {
            sum.selections = sum.selections.saturating_add(1);
            let (size, on) = match &selection.node {
                Selection::Field(field) => (self.field(&field.node, level)?, None),
                Selection::InlineFragment(fragment) => {
                    let on = fragment.node.type_condition.as_ref().map(|condition| &condition.node.on.node);
                    (self.set(&fragment.node.selection_set.node, level + 1)?, on)
                }
                Selection::FragmentSpread(spread) => {
                    let name = &spread.node.fragment_name.node;
                    let fragment = self.document.fragments.get(name);
                    (self.fragment(name, level)?, fragment.map(|fragment| &fragment.node.type_condition.node.on.node))
                }
            };
            match on.filter(|on| ![EVENT, NODE].contains(&on.as_str())) {
                Some(on) => by_type.entry(on).or_default().add(size),
                None => sum.add(size),
            }
        }
        let dearest = by_type.values().map(|size| size.once.saturating_add(size.each)).max();
        let of_dearest = |size: &&Size| Some(size.once.saturating_add(size.each)) == dearest;
        let (once, each) = by_type.values().find(of_dearest).map_or((0, 0), |size| (size.once, size.each));
        for size in by_type.into_values() {
            sum.add(Size { once: 0, each: 0, ..size });
        }
        sum.once = sum.once.saturating_add(once);
        sum.each = sum.each.saturating_add(each);
        if sum.selections > SELECTIONS_MAX {
            let detail = format!("more than {SELECTIONS_MAX} selections, counted with fragments unfolded");
            return Err(Failure::new(TOO_COMPLEX, detail));
        }
        Ok(sum)
    }

    fn fragment(&mut self, name: &'a Name, level: usize) -> Result<Size, Failure> {
        match self.fragments.get(name) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => {
                return Err(Failure::new(VALIDATION, format!("fragment `{name}` spreads itself")));
            }
            None => {}
        }
        // An unknown fragment is the validator's business.
        let Some(fragment) = self.document.fragments.get(name) else { return Ok(Size::default()) };
        self.fragments.insert(name, None);
        let size = self.set(&fragment.node.selection_set.node, level + 1)?;
        self.fragments.insert(name, Some(size));
        Ok(size)
    }

    fn field(&mut self, field: &'a Field, level: usize) -> Result<Size, Failure> {
        let name = field.name.node.as_str();
        if !self.introspection && matches!(name, "__schema" | "__type") {
            return Err(Failure::new(VALIDATION, "introspection is switched off in this gateway"));
        }
        if field.selection_set.node.items.is_empty() {
            return Ok(Size { roots: 1, depth: 1, values: 1, ..Size::default() });
        }
        let inner = self.set(&field.selection_set.node, level + 1)?;
        let page = self.number(field, "first").or(self.number(field, "last"));
        let page = page.unwrap_or(PAGE_DEFAULT.unsigned_abs().into()).clamp(1, PAGE_MAX as u64);
        let items = inner.each.saturating_mul(page);
        let whole = inner.once.saturating_add(items).saturating_add(1);
        let batch = self.number(field, "batch").filter(|_| self.operation.ty == OperationType::Subscription);
        let batch = batch.map(|batch| batch.clamp(1, PAGE_MAX as u64));
        let whole = whole.saturating_mul(batch.unwrap_or(1));
        let ids = self.number(field, "ids").map(|ids| ids.min(IDS_MAX as u64));
        let is_list = matches!(name, "fields" | "inputFields" | "interfaces" | "possibleTypes");
        let (once, each) = match (name, ids) {
            (_, Some(ids)) => (whole.saturating_mul(ids), 0),
            ("nodes" | "edges", None) => (0, whole),
            _ if is_list => (whole.saturating_mul(INTROSPECTION_LIST), 0),
            _ => (whole, 0),
        };
        let lists = inner.lists + usize::from(is_list);
        let items = self.extent.map_or(1, |extent| extent.items(name)).saturating_mul(ids.unwrap_or(1));
        let values = inner.values.saturating_add(inner.values_each.saturating_mul(page)).saturating_add(1);
        let (values, values_each) = match (name, ids) {
            ("nodes" | "edges", None) => (0, values),
            _ => (values.saturating_mul(items).saturating_mul(batch.unwrap_or(1)), 0),
        };
        let (selections, depth) = (inner.selections, inner.depth + 1);
        Ok(Size { roots: 1, selections, depth, lists, once, each, values, values_each })
    }

    /// The number that an argument is, or the length of the list that it is.
    fn number(&self, field: &Field, argument: &str) -> Option<u64> {
        let given = field.get_argument(argument)?.node.clone();
        let value = given.into_const_with(|name| {
            let definitions = &self.operation.variable_definitions;
            let definition = definitions.iter().find(|definition| definition.node.name.node == name);
            let default = || definition.and_then(|definition| definition.node.default_value());
            self.variables.get(&name).or_else(default).cloned().ok_or(())
        });
        match value.ok()? {
            Value::Number(number) => number.as_u64(),
            Value::List(list) => Some(list.len() as u64),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::Code;
    use super::*;
    use async_graphql::parser::parse_query;

    const EXTENT: Extent = Extent { types: 50, fields: 500 };

    fn cost(text: &str) -> Result<u64, Code> {
        scan(text).map_err(|failure| failure.code)?;
        let document = parse_query(text).expect("a document");
        let (_, operation) = document.operations.iter().next().expect("an operation");
        let measured = check(&document, true)
            .and_then(|()| super::cost(&document, &operation.node, &Variables::default(), &EXTENT));
        measured.map_err(|failure| failure.code)
    }

    #[test]
    fn a_connection_costs_its_page() {
        assert_eq!(cost("{ event(id: 1) { id } }"), Ok(1));
        assert_eq!(cost("{ events(first: 10) { nodes { id } pageInfo { endCursor } } }"), Ok(12));
        assert_eq!(cost("{ events { edges { node { aggregate { id } } } } }"), Ok(1 + 50 * 3));
        assert_eq!(cost("{ events(first: 3) { ...E } } fragment E on EventConnection { nodes { id } }"), Ok(4));
        assert_eq!(cost("query($n: Int = 7) { events(first: $n) { nodes { id } } }"), Ok(8));
        assert_eq!(cost("{ eventsByIds(ids: [1, 2, 3]) { aggregate { id } } }"), Ok(6));
        let typed = "{ events(first: 10) { nodes { ... on A { data { x } } ... on B { data { x { y } } } ...F } } } \
            fragment F on Event { aggregate { id } }";
        assert_eq!(cost(typed), Ok(1 + 10 * (1 + 2 + 1)));
        let nested = "{ events(first: 200) { nodes { aggregate { events { nodes { id } } } } } }";
        assert_eq!(cost(nested), Err(TOO_COMPLEX));
    }

    #[test]
    fn small_texts_that_unfold_into_very_many_fields_are_refused() {
        let doubling: String =
            (0..25).map(|n| format!(" fragment F{n} on Query {{ ...F{m} ...F{m} }}", m = n + 1)).collect();
        for bomb in ["{ ...F0 } fragment F25 on Query { a }", "{ ...F0 }", "{ a }", "query A { a } query B { ...F0 }"] {
            assert_eq!(cost(&format!("{bomb} {doubling}")), Err(TOO_COMPLEX), "{bomb}");
        }
        assert_eq!(cost("{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }"), Err(VALIDATION));
        let types = "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }";
        assert_eq!(cost(types), Err(TOO_DEEP));
        assert_eq!(cost(&"{a".repeat(10_000)), Err(TOO_DEEP));
        assert_eq!(cost(&format!("{{ {} }}", "a ".repeat(5_000))), Err(TOO_COMPLEX));
        assert_eq!(cost(&format!("{{ {} }}", "a ".repeat(21))), Err(TOO_COMPLEX));
    }

    #[test]
    fn scalars_count_where_there_are_very_many() {
        let aliases = |name: &str, count: usize| (0..count).map(|n| format!("a{n}: {name} ")).collect::<String>();
        assert_eq!(cost(&format!("{{ events(first: 200) {{ nodes {{ {} }} }} }}", aliases("id", 900))), Ok(201));
        assert_eq!(
            cost(&format!("{{ events(first: 200) {{ nodes {{ {} }} }} }}", aliases("id", 1_500))),
            Err(TOO_COMPLEX)
        );
        let types = format!("{{ __schema {{ types {{ fields {{ {} }} }} }} }}", aliases("name", 600));
        assert_eq!(cost(&types), Err(TOO_COMPLEX));
    }

    #[test]
    fn strings_and_comments_hide_their_brackets() {
        let hidden = "(".repeat(100);
        let strings = format!(r#"b: "{hidden}\"", c: "", d: """{hidden}\""" " """"#);
        assert_eq!(cost(&format!("# {hidden}\n{{ a({strings}) }}")), Ok(0));
    }
}
