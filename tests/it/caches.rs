//! A cache in front of the gateway, set up as `docs/caches.md` says.

use std::collections::HashMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use crate::support::reader::replicate;
use crate::support::{Engine, Gateway, event, events, wait_for};

/// A running nginx.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers go with it.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn start(gateway: &Gateway, port: u16) -> Nginx {
    let page = include_str!("../../docs/caches.md");
    let (_, from) = page.split_once("```nginx\n").unwrap();
    let block = from.split_once("```\n").unwrap().0;
    let folder = gateway.dir.path().display().to_string();
    let block = block
        .replace("/var/cache/nginx/postern", &format!("{folder}/cache"))
        .replace("listen 80;", &format!("listen 127.0.0.1:{port};"))
        .replace("http://127.0.0.1:8080", &gateway.url(""));
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = temporary.iter().map(|kind| format!("{kind}_temp_path {folder}/{kind};\n")).collect();
    let config = format!(
        "daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nworker_processes 2;\nevents {{}}\n\
         http {{\n{temporary}log_format asked '$request_uri $upstream_addr';\naccess_log {folder}/access.log asked;\n{block}}}\n"
    );
    let path = gateway.dir.path().join("nginx.conf");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new("/usr/sbin/nginx");
    command.args(["-e", &format!("{folder}/error.log"), "-c"]).arg(path).stderr(Stdio::inherit());
    Nginx(command.spawn().expect("nginx is needed (Debian's package nginx-light)"))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_replicators_behind_nginx_cost_one_request_a_page() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let public = format!("http://127.0.0.1:{port}");
    let config = format!("[server]\npublic_url = {public:?}\n[[feed]]\nname = \"all\"\npage_size = 10\n");
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    gateway.append(events(1..=255)).await;
    let _nginx = start(&gateway, port);
    let ready = || async { gateway.client().get(format!("{public}/healthz")).send().await.ok().map(|_| ()) };
    wait_for("nginx to answer", ready).await;

    let replicas: Vec<_> = (0..10)
        .map(|_| {
            let (client, start) = (gateway.client().clone(), format!("{public}/feeds/all.atom?after=0"));
            tokio::spawn(async move { replicate(&client, &start, || true).await })
        })
        .collect();
    let all: Vec<String> = (1..=255).map(|n| format!("urn:uuid:{}", event(n).id)).collect();
    for replica in replicas {
        assert_eq!(replica.await.unwrap(), all);
    }
    let log = std::fs::read_to_string(gateway.dir.path().join("access.log")).unwrap();
    let mut origin: HashMap<&str, (u32, u32)> = HashMap::new();
    for (path, upstream) in log.lines().filter_map(|line| line.split_once(' ')) {
        let (asked, passed) = origin.entry(path).or_default();
        *asked += 1;
        *passed += u32::from(upstream != "-");
    }
    let sealed: Vec<_> =
        origin.iter().filter(|(path, _)| path.ends_with(".atom") && !path.ends_with("/26.atom")).collect();
    assert_eq!(sealed.len(), 24, "pages 2 to 25; the first ten events came as a continuation: {origin:?}");
    assert!(sealed.iter().all(|(_, counts)| **counts == (10, 1)), "{sealed:?}");
    assert_eq!(origin["/feeds/all.atom?after=0"], (10, 1), "a full continuation is kept, too");
}
