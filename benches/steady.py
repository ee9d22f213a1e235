#!/usr/bin/env python3
"""Does a gateway that works stay as it is? Memory and open files of a release build under mixed load, every 10 s.

    cargo build --release && benches/steady.py [seconds: 600] [events a second: 200]

Events are handed in, polled as pages and streams that come and go, asked for by GraphQL, and sent to three webhooks, of
which one hangs and one is down. It fails if the last third of the time needs over 10 % and 4 MB more memory, or more files,
than the second third.
"""
import http.client
import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 600
RATE = int(sys.argv[2]) if len(sys.argv) > 2 else 200
PORT = 18190
stop = threading.Event()
counts = {"events": 0, "requests": 0, "streams": 0, "calls": 0, "errors": 0}


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/hangs":
            stop.wait(60)
        counts["calls"] += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def loop(work):
    def run():
        connection = None
        while not stop.is_set():
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
                work(connection)
            except Exception:
                counts["errors"] += 1
                connection = None
                stop.wait(0.5)
    threading.Thread(target=run, daemon=True).start()


def ask(connection, method, path, body=None, headers={}):
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    counts["requests"] += 1
    if answer.status >= 400:
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]}")
    return text


def push(connection):
    batch = [{"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/erp", "type": f"Type{n % 7}",
              "subject": f"order-{uuid.uuid4().int % 5000}", "data": {"n": n, "text": "x" * 400}} for n in range(RATE // 5)]
    ask(connection, "POST", "/sources/erp/events", json.dumps(batch), {"content-type": "application/cloudevents-batch+json"})
    counts["events"] += len(batch)
    stop.wait(0.2)


def poll(connection):
    for path in ["/feeds/all.atom", "/feeds/all.json", "/feeds", "/webhooks", "/sources/erp", "/metrics", "/console"]:
        ask(connection, "GET", path, headers={"accept-encoding": "gzip"})
    stop.wait(0.1)


def query(connection):
    document = "{ events(last: 50) { nodes { id type occurredAt data } } }"
    ask(connection, "POST", "/graphql", json.dumps({"query": document}), {"content-type": "application/json"})
    stop.wait(0.1)


def stream(_):
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
    connection.request("GET", "/feeds/all", headers={"accept": "text/event-stream"})
    connection.getresponse().read(20_000)
    counts["streams"] += 1
    connection.close()
    stop.wait(0.05)


def main():
    directory = tempfile.TemporaryDirectory()
    config = os.path.join(directory.name, "postern.toml")
    with open(config, "w") as file:
        file.write(f'[server]\nlisten = "127.0.0.1:{PORT}"\n[journal]\nurl = "sqlite://{directory.name}/journal.db"\n'
                   '[webhooks]\nconsent = "off"\nallow = ["127.0.0.1"]\n[[source]]\nname = "erp"\npush = true\n')
    receivers = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receivers.serve_forever, daemon=True).start()
    gateway = subprocess.Popen(["target/release/postern", "serve", "--config", config], stderr=subprocess.DEVNULL)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        for _ in range(100):
            try:
                ask(connection, "GET", "/readyz")
                break
            except OSError:
                connection.close()
                time.sleep(0.05)
        here = f"http://127.0.0.1:{receivers.server_address[1]}"
        for url in [f"{here}/works", f"{here}/hangs", "http://127.0.0.1:9/is-down"]:
            ask(connection, "POST", "/webhooks", json.dumps({"url": url}), {"content-type": "application/json"})
        for work in [push, poll, query, stream, stream]:
            loop(work)
        return watch(gateway.pid)
    finally:
        stop.set()
        gateway.terminate()
        gateway.wait()
        directory.cleanup()


def watch(pid):
    seen, started = [], time.time()
    while time.time() - started < SECONDS:
        time.sleep(min(10, SECONDS / 30))
        with open(f"/proc/{pid}/status") as file:
            memory = next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))
        files = len(os.listdir(f"/proc/{pid}/fd"))
        seen.append((memory, files))
        print(f"{time.time() - started:5.0f} s  {memory:6.1f} MB  {files:3} files  {counts}", flush=True)
    third = len(seen) // 3
    before, after = seen[third:2 * third], seen[-third:]
    median = lambda rows, which: statistics.median(row[which] for row in rows)
    (m1, m2), (f1, f2) = [(median(before, which), median(after, which)) for which in (0, 1)]
    print(f"memory {m1:.1f} -> {m2:.1f} MB, files {f1:.0f} -> {f2:.0f}")
    return 0 if (m2 < m1 * 1.1 or m2 < m1 + 4) and f2 <= f1 + 5 else 1


sys.exit(main())
