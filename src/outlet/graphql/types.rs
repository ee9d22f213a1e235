//! What the catalogue adds to the schema: an object type for each event type that has a JSON Schema, and the object
//! types of its data.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_graphql::indexmap::IndexMap;
use async_graphql::registry::{Deprecation, MetaField, ObjectBuilder, Registry};

use crate::catalogue::Catalogue;
use crate::catalogue::shape::{Attribute, Object, Shape, Shapes};

/// The type of events without a schema.
pub(super) const UNTYPED: &str = "UntypedEvent";

/// Everything that was generated. Types of events come in the order of the event types' names.
#[derive(Default)]
pub(super) struct Types {
    pub(super) events: Vec<EventType>,
    /// What [`Shape::Object`] numbers.
    pub(super) objects: Vec<ObjectType>,
    by_event_type: HashMap<String, usize>,
}

/// The object type of the events of one type.
pub(super) struct EventType {
    pub(super) event_type: String,
    pub(super) name: String,
    about: Option<String>,
    pub(super) data: Shape,
}

/// An object inside data.
pub(super) struct ObjectType {
    pub(super) name: String,
    about: Option<String>,
    pub(super) fields: IndexMap<String, FieldType>,
}

pub(super) struct FieldType {
    /// The attribute's name in JSON.
    pub(super) attribute: String,
    pub(super) shape: Shape,
    about: Option<String>,
    deprecated: bool,
}

impl Types {
    /// The types of a catalogue. `reserved` are the names that the schema has without it.
    ///
    /// # Errors
    /// A sentence that names the two who would have the same name.
    pub(super) fn new(catalogue: &Catalogue, reserved: &BTreeSet<String>) -> Result<Self, String> {
        let mut types = Self::default();
        let mut taken: BTreeMap<String, String> =
            reserved.iter().map(|name| (name.clone(), "the schema itself".to_owned())).collect();
        for (event_type, schema) in catalogue.schemas() {
            let name = pascal(event_type);
            if name.is_empty() {
                let detail = "holds no letter of A to Z, so there is no GraphQL type name for it";
                return Err(format!("[events.\"{event_type}\"]: `{event_type}` {detail}"));
            }
            let shapes = Shapes::of(schema.versions());
            let about = match shapes.root {
                Shape::Object(index) => shapes.objects[index].about.clone(),
                _ => None,
            };
            let names = names(&name, &shapes.objects);
            for name in std::iter::once(&name).chain(&names) {
                if let Some(other) = taken.insert(name.clone(), format!("[events.\"{event_type}\"]")) {
                    let both = format!("{other} and [events.\"{event_type}\"]");
                    return Err(format!("{both} would both have a GraphQL type `{name}`; rename one of them"));
                }
            }
            let base = types.objects.len();
            types.by_event_type.insert(event_type.clone(), types.events.len());
            types.events.push(EventType {
                event_type: event_type.clone(),
                name,
                about,
                data: rebased(shapes.root, base),
            });
            let objects = shapes.objects.into_iter().zip(names);
            types.objects.extend(objects.map(|(object, name)| ObjectType::new(name, object, base)));
        }
        Ok(types)
    }

    /// The type of events of this type, by its index.
    pub(super) fn of(&self, event_type: &str) -> Option<usize> {
        self.by_event_type.get(event_type).copied()
    }

    pub(super) fn name_of(&self, index: Option<usize>) -> &str {
        index.map_or(UNTYPED, |index| &self.events[index].name)
    }

    /// Adds the types to the schema. Events have `fields` and their data.
    pub(super) fn register(&self, registry: &mut Registry, fields: &IndexMap<String, MetaField>) {
        for event in &self.events {
            let mut fields = fields.clone();
            let mut data = MetaField::new("data", self.text(&event.data));
            let about = "Its data. What does not fit the schema of its type is null, with an error beside it.";
            data.description = Some(about.to_owned());
            fields.insert("data".to_owned(), data);
            let about = event.about.clone().unwrap_or_else(|| format!("The events of type `{}`.", event.event_type));
            let object =
                ObjectBuilder::new(&event.name, fields).description(Some(described(&about))).rust_typename("EventNode");
            registry.types.insert(event.name.clone(), object.build());
        }
        for object in &self.objects {
            let field = |(name, field): (&String, &FieldType)| (name.clone(), self.field(name, field));
            let fields = object.fields.iter().map(field).collect();
            let builder = ObjectBuilder::new(&object.name, fields).description(object.about.as_deref().map(described));
            registry.types.insert(object.name.clone(), builder.rust_typename("Data").build());
        }
    }

    fn field(&self, name: &str, field: &FieldType) -> MetaField {
        let mut meta = MetaField::new(name, self.text(&field.shape));
        let renamed = (name != field.attribute).then(|| format!("`{}` in JSON.", field.attribute));
        let about: Vec<&str> = [field.about.as_deref(), renamed.as_deref()].into_iter().flatten().collect();
        meta.description = (!about.is_empty()).then(|| described(&about.join(" ")));
        if field.deprecated {
            meta.deprecation = Deprecation::Deprecated { reason: None };
        }
        meta
    }

    /// A shape as GraphQL writes types. Everything is nullable: one name with and without `!` on two event types would
    /// make documents that select both invalid.
    pub(super) fn text(&self, shape: &Shape) -> String {
        match shape {
            Shape::Boolean => "Boolean".to_owned(),
            Shape::Int => "Int".to_owned(),
            Shape::Long => "Long".to_owned(),
            Shape::Float => "Float".to_owned(),
            Shape::Text => "String".to_owned(),
            Shape::Time => "DateTime".to_owned(),
            Shape::Json => "JSON".to_owned(),
            Shape::List(item) => format!("[{}]", self.text(item)),
            Shape::Object(index) => self.objects[*index].name.clone(),
        }
    }
}

impl ObjectType {
    fn new(name: String, object: Object, base: usize) -> Self {
        let names = field_names(&object.attributes);
        let fields = names.into_iter().zip(object.attributes).map(|(name, attribute)| {
            let Attribute { name: attribute, shape, about, deprecated } = attribute;
            (name, FieldType { attribute, shape: rebased(shape, base), about, deprecated })
        });
        Self { name, about: object.about, fields: fields.collect() }
    }
}

/// Numbers objects from `base` on.
fn rebased(shape: Shape, base: usize) -> Shape {
    match shape {
        Shape::Object(index) => Shape::Object(index + base),
        Shape::List(item) => Shape::List(Box::new(rebased(*item, base))),
        other => other,
    }
}

/// Names for the objects of one event type: its own, `Data` and the place. A name that is taken gets a number.
fn names(event: &str, objects: &[Object]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for object in objects {
        let place: String = object.place.iter().map(|name| pascal(name)).collect();
        let name = free(format!("{event}Data{place}"), |name| names.iter().any(|taken| taken == name));
        names.push(name);
    }
    names
}

/// The fields of attributes: their names, cleaned where GraphQL allows less than JSON. Who needs no cleaning keeps it.
fn field_names(attributes: &[Attribute]) -> Vec<String> {
    let cleaned: Vec<String> = attributes.iter().map(|attribute| clean(&attribute.name)).collect();
    let is_clean = |(attribute, name): &(&Attribute, &String)| attribute.name == **name;
    let mut taken: BTreeSet<String> =
        attributes.iter().zip(&cleaned).filter(is_clean).map(|(_, name)| name.clone()).collect();
    let names = attributes.iter().zip(cleaned).map(|(attribute, name)| {
        if attribute.name == name {
            return name;
        }
        let name = free(name, |name| taken.contains(name));
        taken.insert(name.clone());
        name
    });
    names.collect()
}

fn free(name: String, is_taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|n| format!("{name}_{n}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    names.find(|name| !is_taken(name)).expect("numbers don't end")
}

/// A description that can stand between the quotes of an SDL, which the engine does not escape.
fn described(text: &str) -> String {
    let plain = |c: char| !c.is_control() || c == '\n';
    text.replace("\"\"\"", "'''").replace('\\', "/").chars().filter(|c| plain(*c)).collect()
}

/// `issues.opened` → `IssuesOpened`.
fn pascal(text: &str) -> String {
    let mut name = String::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let (first, rest) = word.split_at(1);
        name.push_str(&first.to_ascii_uppercase());
        name.push_str(rest);
    }
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// `cart-id` → `cart_id`, `1st` → `_1st`, `__x` → `_x`: two underscores in front are GraphQL's own.
fn clean(name: &str) -> String {
    let cleaned: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let body = cleaned.trim_start_matches('_');
    match cleaned.len() - body.len() {
        0 if body.is_empty() || body.starts_with(|c: char| c.is_ascii_digit()) => format!("_{body}"),
        0 => cleaned,
        _ => format!("_{body}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_legal() {
        for (text, name) in
            [("issues.opened", "IssuesOpened"), ("order_placed", "OrderPlaced"), ("1st", "_1st"), ("ü", "")]
        {
            assert_eq!(pascal(text), name);
        }
        for (text, name) in
            [("cart-id", "cart_id"), ("1st", "_1st"), ("__x", "_x"), ("_x", "_x"), ("é", "_"), ("", "_")]
        {
            assert_eq!(clean(text), name);
        }
    }

    #[test]
    fn attributes_that_clean_to_one_name_are_told_apart() {
        let attribute =
            |name: &str| Attribute { name: name.into(), shape: Shape::Text, about: None, deprecated: false };
        let names = field_names(&["a-b", "a.b", "a_b", "a_b_2"].map(attribute));
        assert_eq!(names, ["a_b_3", "a_b_4", "a_b", "a_b_2"]);
    }
}
