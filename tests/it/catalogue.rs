//! The catalogue on the command line: schemas drafted from events, the GraphQL schema of a configuration, and what a change
//! of it breaks.

use std::process::{Command, Output};

use postern::event::Event;
use serde_json::{Value, json};

use crate::support::{Gateway, event};

fn postern(gateway: &Gateway, arguments: &[&str]) -> Output {
    let config = gateway.dir.path().join("postern.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(arguments).arg("--config").arg(config).current_dir(gateway.dir.path()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn placed(n: i64) -> Event {
    let data =
        json!({ "orderId": format!("o-{n}"), "lines": [{ "sku": "a", "qty": n }], "at": "2026-01-31T12:00:00Z" });
    Event { r#type: "order.placed".to_owned(), data: data.to_string(), ..event(n) }
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_are_drafted_from_events_and_make_data_typed() {
    let mut gateway = Gateway::start().await;
    let empty = postern(&gateway, &["catalogue", "infer"]);
    assert!(!empty.status.success() && text(&empty).contains("holds no events yet"), "{}", text(&empty));
    gateway.append((1..=5).map(placed).collect()).await;
    let drafted = postern(&gateway, &["catalogue", "infer", "--sample", "3"]);
    let config = text(&drafted);
    assert!(drafted.status.success(), "{config}");
    let path = gateway.dir.path().join("catalogue/order.placed.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(schema["$comment"], "Drafted from 3 of 5 events. Look it over.");
    assert_eq!(schema["properties"]["at"], json!({ "type": "string", "format": "date-time" }));
    let again = postern(&gateway, &["catalogue", "infer"]);
    assert!(text(&again).contains("stays as it is"), "{}", text(&again));

    // What it prints is configuration.
    gateway.reconfigure(&config).await;
    let query = "{ events(first: 1) { nodes { ... on OrderPlaced { data { orderId lines { sku qty } } } } } }";
    let answer = crate::support::json(gateway.post_json("/graphql", &json!({ "query": query })).await).await;
    let data = json!({ "orderId": "o-1", "lines": [{ "sku": "a", "qty": 1 }] });
    assert_eq!(answer["data"]["events"]["nodes"][0]["data"], data, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_schema_says_what_it_breaks() {
    let mut gateway = Gateway::start().await;
    let folder = gateway.dir.path().to_owned();
    let write = |properties: Value| {
        std::fs::write(folder.join("placed.json"), json!({ "properties": properties }).to_string()).unwrap();
    };
    write(json!({ "orderId": { "type": "string" }, "qty": { "type": "integer" } }));
    let document = "query Old { events { nodes { ... on OrderPlaced { data { qty } } } } }";
    std::fs::write(folder.join("manifest.json"), json!({ "old-1": document }).to_string()).unwrap();
    gateway
        .reconfigure("[events.OrderPlaced]\nschema = \"placed.json\"\n[graphql]\ndocuments = \"manifest.json\"\n")
        .await;
    let schema = postern(&gateway, &["schema"]);
    assert!(schema.status.success() && text(&schema).contains("type OrderPlacedData {"), "{}", text(&schema));
    std::fs::write(folder.join("old.graphql"), &schema.stdout).unwrap();
    assert_eq!(postern(&gateway, &["schema"]).stdout, schema.stdout, "it is stable");
    let same = postern(&gateway, &["schema", "--diff", "old.graphql"]);
    assert_eq!((same.status.code(), text(&same).as_str()), (Some(0), ""));

    write(json!({ "orderId": { "type": "string" }, "note": { "type": "string" } }));
    let changed = postern(&gateway, &["schema", "--diff", "old.graphql"]);
    let told = text(&changed);
    assert_eq!(changed.status.code(), Some(1), "{told}");
    assert!(told.contains("breaks clients that select `OrderPlacedData.qty`: the field is gone"), "{told}");
    assert!(told.contains("breaks the trusted document `old-1`"), "{told}");
    assert!(told.contains("`OrderPlacedData.note` is new"), "{told}");
    let checked = postern(&gateway, &["check"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(text(&checked).contains("the trusted document `old-1`"), "{}", text(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn event_types_that_would_have_one_graphql_name_are_told() {
    let gateway = Gateway::start().await;
    std::fs::write(gateway.dir.path().join("s.json"), "{}").unwrap();
    for (types, told) in [
        (["order.placed", "OrderPlaced"], "[events.\"OrderPlaced\"] and [events.\"order.placed\"] would both have"),
        (["journal", "x"], "the schema itself and [events.\"journal\"] would both have a GraphQL type `Journal`"),
        (["ü", "x"], "there is no GraphQL type name for it"),
    ] {
        let path = gateway.dir.path().join("names.toml");
        let config = types.map(|name| format!("[events.\"{name}\"]\nschema = \"s.json\"\n")).concat();
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        let output = command.args(["schema", "--config"]).arg(&path).output().unwrap();
        assert!(!output.status.success() && text(&output).contains(told), "{}", text(&output));
    }
}
