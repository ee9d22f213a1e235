//! What a client that was written for one schema meets with another.

use apollo_compiler::Schema;
use apollo_compiler::ast::{InputValueDefinition, Type};
use apollo_compiler::collections::IndexMap;
use apollo_compiler::schema::{Component, ExtendedType, FieldDefinition};
use apollo_compiler::{Name, Node};

use super::documents::read_schema;

/// What became different, a sentence each, in the order of the names.
#[derive(Debug, Default)]
pub struct Diff {
    /// Each says which clients it breaks.
    pub breaking: Vec<String>,
    pub other: Vec<String>,
}

/// Compares two schemas.
///
/// # Errors
/// What is wrong with one of them.
pub fn diff(old: &str, new: &str) -> Result<Diff, String> {
    let (old, new) = (read_schema(old)?, read_schema(new)?);
    let mut diff = Diff::default();
    for (name, kind) in old.types.iter().filter(|(_, kind)| !kind.is_built_in()) {
        match new.types.get(name) {
            None => diff.breaks(format!("clients that name `{name}`: the type is gone")),
            Some(now) => diff.kinds(name, kind, now),
        }
    }
    for name in new.types.keys().filter(|name| !old.types.contains_key(*name)) {
        diff.other.push(format!("the type `{name}` is new"));
    }
    diff.subtypes(&old, &new);
    diff.breaking.sort();
    diff.other.sort();
    Ok(diff)
}

impl Diff {
    fn breaks(&mut self, what: String) {
        self.breaking.push(format!("breaks {what}"));
    }

    fn kinds(&mut self, name: &Name, old: &ExtendedType, new: &ExtendedType) {
        match (old, new) {
            (ExtendedType::Object(old), ExtendedType::Object(new)) => {
                self.fields(name, &nodes(&old.fields), &nodes(&new.fields));
                for interface in old.implements_interfaces.difference(&new.implements_interfaces) {
                    self.breaks(format!("clients that read `{name}` as `{}`: it is none any more", interface.name));
                }
            }
            (ExtendedType::Interface(old), ExtendedType::Interface(new)) => {
                self.fields(name, &nodes(&old.fields), &nodes(&new.fields));
            }
            (ExtendedType::Enum(old), ExtendedType::Enum(new)) => {
                for member in old.values.keys().filter(|member| !new.values.contains_key(*member)) {
                    self.breaks(format!("clients that send `{name}.{member}`: the member is gone"));
                }
                for member in new.values.keys().filter(|member| !old.values.contains_key(*member)) {
                    self.other.push(format!("`{name}.{member}` is new"));
                }
            }
            (ExtendedType::InputObject(old), ExtendedType::InputObject(new)) => {
                self.inputs(name.as_str(), &nodes(&old.fields), &nodes(&new.fields));
            }
            (ExtendedType::Scalar(_), ExtendedType::Scalar(_)) | (ExtendedType::Union(_), ExtendedType::Union(_)) => {}
            _ => self.breaks(format!("clients that name `{name}`: it is another kind of type")),
        }
    }

    fn fields(&mut self, owner: &Name, old: &[Node<FieldDefinition>], new: &[Node<FieldDefinition>]) {
        for field in old {
            let place = format!("{owner}.{}", field.name);
            let Some(now) = new.iter().find(|now| now.name == field.name) else {
                self.breaks(format!("clients that select `{place}`: the field is gone"));
                continue;
            };
            if !promises(&now.ty, &field.ty) {
                self.breaks(format!("clients that select `{place}`: it was `{}` and is `{}`", field.ty, now.ty));
            }
            let was_deprecated = field.directives.has("deprecated");
            if now.directives.has("deprecated") && !was_deprecated {
                self.other.push(format!("`{place}` is deprecated"));
            }
            self.inputs(&place, &field.arguments, &now.arguments);
        }
        for field in new.iter().filter(|field| !old.iter().any(|was| was.name == field.name)) {
            self.other.push(format!("`{owner}.{}` is new", field.name));
        }
    }

    /// Arguments of a field, or fields of an input.
    fn inputs(&mut self, owner: &str, old: &[Node<InputValueDefinition>], new: &[Node<InputValueDefinition>]) {
        for input in old {
            let place = format!("{owner}({})", input.name);
            match new.iter().find(|now| now.name == input.name) {
                None => self.breaks(format!("clients that send `{place}`: it is gone")),
                Some(now) if !promises(&input.ty, &now.ty) => {
                    self.breaks(format!("clients that send `{place}`: it was `{}` and is `{}`", input.ty, now.ty));
                }
                Some(now) if now.default_value != input.default_value => {
                    self.other.push(format!("`{place}` has another default"));
                }
                Some(_) => {}
            }
        }
        for input in new.iter().filter(|input| !old.iter().any(|was| was.name == input.name)) {
            let place = format!("{owner}({})", input.name);
            if input.is_required() {
                self.breaks(format!("clients that use `{owner}`: `{place}` is required now"));
            } else {
                self.other.push(format!("`{place}` is new"));
            }
        }
    }

    /// Types that are no longer what an interface or a union may be, or newly are.
    fn subtypes(&mut self, old: &Schema, new: &Schema) {
        let (was, is) = (old.implementers_map(), new.implementers_map());
        for (interface, implementers) in &is {
            let Some(before) = was.get(interface) else { continue };
            for name in implementers.objects.difference(&before.objects) {
                self.other.push(format!("`{interface}` may be `{name}`: clients that tell types apart meet a new one"));
            }
        }
    }
}

fn nodes<T>(components: &IndexMap<Name, Component<T>>) -> Vec<Node<T>> {
    components.values().map(|component| component.node.clone()).collect()
}

/// Whether every value of `new` is one of `old`: the same type, or one with more `!`.
fn promises(new: &Type, old: &Type) -> bool {
    match (new, old) {
        (Type::NonNullNamed(new), Type::NonNullNamed(old) | Type::Named(old))
        | (Type::Named(new), Type::Named(old)) => new == old,
        (Type::NonNullList(new), Type::NonNullList(old) | Type::List(old)) | (Type::List(new), Type::List(old)) => {
            promises(new, old)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "
        type Query { a(x: Int, y: String! = \"1\"): A  e(k: Kind): N }
        interface N { id: ID! }
        type A implements N { id: ID!  gone: Int  less: Int!  more: Int  list: [Int!]  same: String }
        type Old { x: Int }
        enum Kind { ONE TWO }
        input I { x: Int  y: Int! }
        type U { i(i: I): Old }
        extend type Query { u: U }";
    const NEW: &str = "
        type Query { a(x: Int!, z: Int!, y: String! = \"2\"): A  e(k: Kind): N  u: U }
        interface N { id: ID! }
        type A implements N { id: ID!  less: Int  more: Int!  list: [Int]  same: String @deprecated  added: Int }
        type B implements N { id: ID! }
        enum Kind { ONE THREE }
        input I { x: Int  y: Int }
        type U { i(i: I): Old }
        scalar Old";

    #[test]
    fn what_breaks_clients_is_told_apart_from_what_does_not() {
        let diff = diff(OLD, NEW).expect("two schemas");
        let breaking = [
            "breaks clients that name `Old`: it is another kind of type",
            "breaks clients that select `A.gone`: the field is gone",
            "breaks clients that select `A.less`: it was `Int!` and is `Int`",
            "breaks clients that select `A.list`: it was `[Int!]` and is `[Int]`",
            "breaks clients that send `Kind.TWO`: the member is gone",
            "breaks clients that send `Query.a(x)`: it was `Int` and is `Int!`",
            "breaks clients that use `Query.a`: `Query.a(z)` is required now",
        ];
        assert_eq!(diff.breaking, breaking);
        let other = [
            "`A.added` is new",
            "`A.same` is deprecated",
            "`Kind.THREE` is new",
            "`N` may be `B`: clients that tell types apart meet a new one",
            "`Query.a(y)` has another default",
            "the type `B` is new",
        ];
        assert_eq!(diff.other, other);
    }

    #[test]
    fn a_schema_is_like_itself() {
        let diff = diff(OLD, OLD).expect("a schema");
        assert!(diff.breaking.is_empty() && diff.other.is_empty(), "{diff:?}");
        assert!(super::diff("type Query", "type Query { a: B }").is_err());
    }
}
