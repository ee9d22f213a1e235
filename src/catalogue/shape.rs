//! JSON Schema → shape: which attributes the data of an event type has, for outlets that are typed.
//!
//! All schemas that speak of one value (versions, `allOf`, what they refer to) are read side by side: a value has the
//! attributes of each of them. What has no fixed shape is [`Shape::Json`]. Never fails: a schema that was accepted has a
//! shape.

use std::collections::HashMap;

use serde_json::Value;

/// Schemas that speak of one value; those beyond are not looked at.
const FACETS_MAX: usize = 100;
/// Values inside one another, and objects of one event type; those beyond are plain JSON.
const LEVELS_MAX: usize = 32;
const OBJECTS_MAX: usize = 1_000;

/// What a value looks like. Every value may also be null or missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    Boolean,
    /// A whole number of 32 bits.
    Int,
    Long,
    Float,
    Text,
    /// RFC 3339.
    Time,
    /// Anything.
    Json,
    List(Box<Shape>),
    /// The object with this index in [`Shapes::objects`].
    Object(usize),
}

/// One attribute of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// As in the JSON text.
    pub name: String,
    pub shape: Shape,
    pub about: Option<String>,
    pub deprecated: bool,
}

/// An object with known attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where it stands: the names of attributes down to it, or the name of its definition. Empty for the data itself.
    pub place: Vec<String>,
    pub about: Option<String>,
    /// In the order of the schema; the same name once.
    pub attributes: Vec<Attribute>,
}

/// The shape of an event type's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shapes {
    pub root: Shape,
    /// They may refer to one another, and to themselves.
    pub objects: Vec<Object>,
}

impl Shapes {
    /// The shape of data that fits any of these schemas: the versions of one event type.
    pub fn of(versions: &[Value]) -> Self {
        let mut reader = Reader::default();
        let facets: Vec<Facet<'_>> =
            versions.iter().map(|version| Facet { document: version, schema: version }).collect();
        let root = reader.shape(&facets, &[]);
        Self { root, objects: reader.objects }
    }
}

/// A schema, with the document in which its references are looked up.
#[derive(Clone, Copy)]
struct Facet<'a> {
    document: &'a Value,
    schema: &'a Value,
}

impl<'a> Facet<'a> {
    fn at(self, schema: &'a Value) -> Self {
        Self { schema, ..self }
    }

    fn get(self, keyword: &str) -> Option<&'a Value> {
        self.schema.get(keyword)
    }

    fn text(self, keyword: &str) -> Option<&'a str> {
        self.get(keyword)?.as_str()
    }

    /// What `$ref` names, if it is a place in this document.
    fn referred(self) -> Option<(Self, &'a str)> {
        let reference = self.text("$ref")?;
        let pointer = percent_encoding::percent_decode_str(reference.strip_prefix('#')?).decode_utf8().ok()?;
        let name = reference.rsplit('/').next().unwrap_or_default();
        Some((self.at(self.document.pointer(&pointer)?), name))
    }

    /// The alternatives that are no null, of those that say what a value looks like.
    fn alternatives(self) -> Vec<Self> {
        let lists = ["oneOf", "anyOf"].into_iter().filter_map(|keyword| self.get(keyword)?.as_array());
        let all = lists.flatten().map(|schema| self.at(schema));
        all.filter(|facet| facet.says_shape() && facet.text("type") != Some("null")).collect()
    }

    fn says_shape(self) -> bool {
        let keywords = ["type", "properties", "items", "$ref", "enum", "const", "allOf", "oneOf", "anyOf"];
        *self.schema == Value::Bool(true) || keywords.iter().any(|keyword| self.get(keyword).is_some())
    }

    /// The kinds of value that the schema itself lets through, as far as it says so.
    fn kinds(self) -> Vec<Kind> {
        let named: Vec<&str> = match self.get("type") {
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !named.is_empty() {
            return named.into_iter().filter(|name| *name != "null").map(|name| self.kind(name)).collect();
        }
        let listed = self.get("enum").and_then(Value::as_array).map(Vec::as_slice);
        let values = listed.or_else(|| self.get("const").map(std::slice::from_ref)).unwrap_or_default();
        if !values.is_empty() {
            return values.iter().filter(|value| !value.is_null()).map(|value| self.kind(type_of(value))).collect();
        }
        ["properties", "items"]
            .into_iter()
            .filter(|keyword| self.get(keyword).is_some())
            .map(|k| self.kind(k))
            .collect()
    }

    fn kind(self, name: &str) -> Kind {
        match name {
            "boolean" => Kind::Is(Shape::Boolean),
            "integer" if self.is_small() => Kind::Is(Shape::Int),
            "integer" => Kind::Is(Shape::Long),
            "number" => Kind::Is(Shape::Float),
            "string" if self.text("format") == Some("date-time") => Kind::Is(Shape::Time),
            "string" => Kind::Is(Shape::Text),
            "array" | "items" => Kind::List,
            "object" | "properties" => Kind::Object,
            _ => Kind::Is(Shape::Json),
        }
    }

    /// Whether whole numbers are bounded to 32 bits.
    fn is_small(self) -> bool {
        let bound = |keywords: [&str; 2]| keywords.into_iter().find_map(|keyword| self.get(keyword)?.as_f64());
        let above = bound(["maximum", "exclusiveMaximum"]).is_some_and(|max| max <= f64::from(i32::MAX));
        let below = bound(["minimum", "exclusiveMinimum"]).is_none_or(|min| min >= f64::from(i32::MIN));
        (above && below) || self.text("format") == Some("int32")
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Is(Shape),
    List,
    Object,
}

impl Kind {
    /// The kind that holds values of both, if there is one but "anything".
    fn or(self, other: Self) -> Self {
        use Shape::{Float, Int, Json, Long, Text, Time};
        match (self, other) {
            (one, two) if one == two => one,
            (Self::Is(Int | Long), Self::Is(Int | Long)) => Self::Is(Long),
            (Self::Is(Int | Long | Float), Self::Is(Int | Long | Float)) => Self::Is(Float),
            (Self::Is(Text | Time), Self::Is(Text | Time)) => Self::Is(Text),
            _ => Self::Is(Json),
        }
    }
}

/// All schemas that speak of one value.
#[derive(Default)]
struct Facets<'a> {
    list: Vec<Facet<'a>>,
    /// There are alternatives that differ: no fixed shape.
    mixed: bool,
    /// The name of the definition, where a reference is all there is.
    definition: Option<&'a str>,
}

impl<'a> Facets<'a> {
    fn add(&mut self, facet: Facet<'a>) {
        let known = self.list.iter().any(|known| std::ptr::eq(known.schema, facet.schema));
        if known || self.list.len() >= FACETS_MAX {
            return;
        }
        self.list.push(facet);
        if facet.get("$ref").is_some() {
            match facet.referred() {
                Some((referred, name)) => {
                    self.definition = Some(name);
                    self.add(referred);
                }
                None => self.mixed = true,
            }
        }
        let all = facet.get("allOf").and_then(Value::as_array).into_iter().flatten();
        all.for_each(|schema| self.add(facet.at(schema)));
        match facet.alternatives().as_slice() {
            [] => {}
            [only] => self.add(*only),
            _ => self.mixed = true,
        }
    }

    /// Without those that only point to others: what is left tells one value from another.
    fn own(mut self) -> Self {
        self.list.retain(|facet| !facet.kinds().is_empty() || *facet.schema == Value::Bool(true));
        if self.list.len() != 1 {
            self.definition = None;
        }
        self
    }

    fn kind(&self) -> Kind {
        let kinds = self.list.iter().flat_map(|facet| facet.kinds());
        match kinds.reduce(Kind::or) {
            Some(kind) if !self.mixed => kind,
            _ => Kind::Is(Shape::Json),
        }
    }

    fn about(&self) -> Option<String> {
        let mut texts =
            self.list.iter().rev().filter_map(|facet| facet.text("description").or_else(|| facet.text("title")));
        texts.next().map(str::to_owned)
    }
}

#[derive(Default)]
struct Reader {
    objects: Vec<Object>,
    /// By the schemas that speak of them, as addresses: a definition that is used twice is one object.
    known: HashMap<Vec<usize>, usize>,
    level: usize,
}

impl Reader {
    fn shape(&mut self, facets: &[Facet<'_>], place: &[String]) -> Shape {
        let mut gathered = Facets::default();
        facets.iter().for_each(|facet| gathered.add(*facet));
        let facets = gathered.own();
        if self.level > LEVELS_MAX {
            return Shape::Json;
        }
        self.level += 1;
        let shape = match facets.kind() {
            Kind::Is(shape) => shape,
            Kind::List => self.list(&facets, place),
            Kind::Object => self.object(&facets, place),
        };
        self.level -= 1;
        shape
    }

    fn list(&mut self, facets: &Facets<'_>, place: &[String]) -> Shape {
        let items: Vec<Facet<'_>> =
            facets.list.iter().filter_map(|facet| Some(facet.at(facet.get("items")?))).collect();
        // A list of schemas speaks of one place each.
        let is_tuple = |facet: &Facet<'_>| facet.schema.is_array();
        let tuple = items.iter().any(is_tuple) || facets.list.iter().any(|facet| facet.get("prefixItems").is_some());
        let item = if tuple { Shape::Json } else { self.shape(&items, place) };
        Shape::List(Box::new(item))
    }

    fn object(&mut self, facets: &Facets<'_>, place: &[String]) -> Shape {
        let key: Vec<usize> = facets.list.iter().map(|facet| std::ptr::from_ref(facet.schema).addr()).collect();
        if let Some(known) = self.known.get(&key) {
            return Shape::Object(*known);
        }
        let properties = properties(facets);
        if properties.is_empty() || self.objects.len() >= OBJECTS_MAX {
            return Shape::Json;
        }
        let place = match facets.definition {
            Some(name) if !place.is_empty() => vec![name.to_owned()],
            _ => place.to_vec(),
        };
        let index = self.objects.len();
        self.known.insert(key, index);
        self.objects.push(Object { place: place.clone(), about: facets.about(), attributes: Vec::new() });
        let attributes = properties.into_iter().map(|(name, facets)| {
            let place = [&place[..], &[name.to_owned()]].concat();
            self.attribute(name, &facets, &place)
        });
        self.objects[index].attributes = attributes.collect();
        Shape::Object(index)
    }

    fn attribute(&mut self, name: &str, facets: &[Facet<'_>], place: &[String]) -> Attribute {
        let said = |keyword: &str| facets.iter().rev().find_map(|facet| facet.get(keyword));
        let about = said("description").or_else(|| said("title")).and_then(Value::as_str).map(str::to_owned);
        let deprecated = said("deprecated") == Some(&Value::Bool(true));
        Attribute { name: name.to_owned(), shape: self.shape(facets, place), about, deprecated }
    }
}

/// By name, in the order of the schemas: what they say about each property. What can never be there is left out.
fn properties<'a>(facets: &Facets<'a>) -> Vec<(&'a str, Vec<Facet<'a>>)> {
    let mut properties: Vec<(&str, Vec<Facet<'_>>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for facet in &facets.list {
        for (name, schema) in facet.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if *schema == Value::Bool(false) {
                continue;
            }
            let place = *places.entry(name).or_insert_with(|| {
                properties.push((name, Vec::new()));
                properties.len() - 1
            });
            properties[place].1.push(facet.at(schema));
        }
    }
    properties
}

#[cfg(test)]
mod tests;
