//! The steps of a gateway in the traces of requests and events, as a collector of OpenTelemetry gets them.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;

use crate::support::receiver::{Answer, Receiver};
use crate::support::serve::{Serve, free_port};
use crate::support::{provider, wait_for};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn hex(bytes: &[u8]) -> String {
    postern::runtime::hex(bytes)
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone());
    match value {
        Some(AnyValue { value: Some(any_value::Value::StringValue(text)) }) => text,
        Some(AnyValue { value: Some(any_value::Value::IntValue(number)) }) => number.to_string(),
        _ => String::new(),
    }
}

/// What the collector has got: the names of services, and all steps.
fn taken(collector: &Receiver) -> (Vec<String>, Vec<Span>) {
    let (mut services, mut spans) = (Vec::new(), Vec::new());
    for call in collector.calls() {
        assert_eq!((call.line.as_str(), call.header("content-type")), ("POST /v1/traces", "application/x-protobuf"));
        for resource in ExportTraceServiceRequest::decode(call.body).unwrap().resource_spans {
            services.push(text(&resource.resource.unwrap().attributes, "service.name"));
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    (services, spans)
}

#[tokio::test]
async fn a_collector_sees_the_way_of_an_event_and_of_a_request() {
    provider();
    let collector = Receiver::start(|_| Answer::Status(200)).await;
    let receiver = Receiver::start(|call| Answer::Status(if call.attempt() == 1 { 500 } else { 204 })).await;
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("postern.toml");
    std::fs::write(
        &config,
        "[webhooks]\nconsent = \"off\"\nallow = [\"127.0.0.1\"]\n[[source]]\nname = \"erp\"\npush = true\n",
    )
    .unwrap();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.trim_end_matches("/hook")),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_SERVICE_NAME", "gateway-of-the-shop"),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ];
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let mut serve = Serve::spawn(free_port(), &config, log, &environment);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    wait_for("a gateway", || async { serve.is_ready(&client).await.then_some(()) }).await;

    let webhook = json!({"url": receiver.url, "retry": ["50ms"]});
    let made = client
        .post(format!("{}/webhooks", serve.url))
        .header("content-type", "application/json")
        .body(webhook.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "/erp", "type": "Shipped", "data": {},
        "traceparent": format!("00-{TRACE}-{PARENT}-01"),
    });
    let push = client.post(format!("{}/sources/erp/events", serve.url));
    let push = push.header("content-type", "application/cloudevents+json").body(event.to_string());
    assert_eq!(push.send().await.unwrap().status(), 202);
    let calls = receiver.wait(2).await;
    let asked =
        client.get(format!("{}/feeds/all.atom", serve.url)).header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    assert_eq!(asked.send().await.unwrap().status(), 200);

    let (services, spans) =
        wait_for("four steps", || async { Some(taken(&collector)).filter(|(_, spans)| spans.len() >= 4) }).await;
    assert!(services.iter().all(|name| name == "gateway-of-the-shop"), "{services:?}");
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE && hex(&span.parent_span_id) == PARENT), "{spans:?}");
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["GET feeds", "POST webhook", "POST webhook", "journal Shipped"], "others are not sampled");
    let posts: Vec<&Span> = spans.iter().filter(|span| span.name == "POST webhook").collect();
    for (call, again) in calls.iter().zip(["0", "1"]) {
        let post =
            posts.iter().find(|span| call.header("traceparent") == format!("00-{TRACE}-{}-01", hex(&span.span_id)));
        let post = post.expect("the receiver is told the step that calls it");
        assert_eq!(text(&post.attributes, "http.request.resend_count"), again);
        assert_eq!(text(&post.attributes, "cloudevents.event_type"), "Shipped");
    }
    assert!(posts.iter().any(|post| text(&post.attributes, "error.type") == "status"));
    assert!(serve.terminate().await.success());
}

#[tokio::test]
async fn what_happened_last_is_sent_and_a_collector_that_is_away_stops_nothing() {
    provider();
    let collector = Receiver::start(|_| Answer::Status(200)).await;
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("postern.toml");
    std::fs::write(&config, "[telemetry]\nlog = \"text\"\n").unwrap();
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    let start = async |collector: &str| {
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let wait = if collector.ends_with(":9") { "50" } else { "3600000" };
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector), ("OTEL_BSP_SCHEDULE_DELAY", wait)];
        let serve = Serve::spawn(free_port(), &config, log, &environment);
        wait_for("a gateway", || async { serve.is_ready(&client).await.then_some(()) }).await;
        let asked = client.get(format!("{}/feeds/all.atom", serve.url)).send().await.unwrap();
        assert_eq!(asked.status(), 200);
        serve
    };
    let mut serve = start(collector.url.trim_end_matches("/hook")).await;
    assert!(collector.calls().is_empty());
    assert!(serve.terminate().await.success());
    let (_, spans) = taken(&collector);
    assert!(spans.iter().any(|span| span.name == "GET feeds"), "{spans:?}");

    let mut serve = start("http://127.0.0.1:9").await;
    wait_for("a warning", || async {
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        log.contains("the collector takes no traces").then_some(())
    })
    .await;
    let asked = client.get(format!("{}/feeds/all.atom", serve.url)).send().await.unwrap();
    assert_eq!(asked.status(), 200);
    assert!(serve.terminate().await.success());
}
