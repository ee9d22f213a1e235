#!/usr/bin/env python3
"""A page of 50 events with 10 typed attributes: the CPU time of Postern's process a request against that of PostGraphile 5's,
on the same events in the same PostgreSQL. Neither the database's nor the load generator's time counts.

    cargo build --profile dist && benches/postgraphile.py [binary]      (default: target/dist/postern, what images hold)

Needs npm (PostGraphile and the Node that it asks for are installed below target/), and a PostgreSQL where databases may be
created: POSTERN_TEST_POSTGRES_URL, else postgres@127.0.0.1:5432. PostGraphile reads a view with a column for each attribute, over
a table with the data as jsonb: the form in which it is fastest. Neither encrypts its connections to the database.
"""
import json, os, pathlib, re, secrets, signal, socket, statistics, subprocess, sys, threading, time, urllib.error, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "postgraphile"
BINARY = sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/dist/postern"
ADMIN = os.environ.get("POSTERN_TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")
EVENTS, REQUESTS, CONNECTIONS, TURNS = 1_000, 2_000, 8, 5
TEXTS = ["cartId", "customerId", "currency", "channel", "country", "coupon", "createdAt", "note"]
FIELDS = TEXTS + ["total", "itemCount"]


def psql(url, *statements):
    commands = [part for statement in statements for part in ("-c", statement)]
    subprocess.run(["psql", "-Xqd", url, "-v", "ON_ERROR_STOP=1", *commands], check=True, stdout=subprocess.DEVNULL)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def data(n):
    return {
        "cartId": f"cart-{n}", "customerId": f"customer-{n % 97}", "currency": "EUR", "total": n + 0.25, "itemCount": n % 9,
        "channel": "web", "country": "CH", "coupon": None, "createdAt": "2026-01-01T12:00:00.000Z", "note": "please ring twice",
        "agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "locale": "de-CH",
        "segment": "returning", "campaign": "winter-sale", "referrer": "https://shop.example.com/teas/green",
        "address": {"street": "Example Street 17", "zip": "8000", "city": "Zurich", "floor": 3},
        "items": [{"sku": "TEA-1", "qty": 2, "price": 7.5}, {"sku": "TEA-2", "qty": 1, "price": 9.9}],
        "flags": ["gift", "express"], "weight": 1.25, "tax": 0.081, "revision": n,
    }


def wait_for(url):
    for _ in range(300):
        try:
            return urllib.request.urlopen(url, timeout=1).read()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing answers at {url}")


def start_postern(database):
    port = free_port()
    properties = {name: {"type": "string"} for name in TEXTS}
    properties |= {"total": {"type": "number"}, "itemCount": {"type": "integer", "maximum": 1000}}
    (WORK / "cart.json").write_text(json.dumps({"properties": properties}))
    (WORK / "postern.toml").write_text(
        f'[server]\nlisten = "127.0.0.1:{port}"\n[journal]\nurl = "{database}?sslmode=disable"\n[[source]]\nname = "shop"\npush = true\n'
        '[webhooks]\nsealing_key = "q83vEjRWeJC6mP3VbQ7mR1Yk0n8qk0u9cZ3vQ2lH0fE="\n'
        '[events.CartCreated]\nschema = "cart.json"\n'
    )
    serve = [BINARY, "serve", "--config", WORK / "postern.toml"]
    # One thread that works, as in Node.
    process = subprocess.Popen(serve, env=os.environ | {"TOKIO_WORKER_THREADS": "1"}, stderr=subprocess.DEVNULL)
    wait_for(f"http://127.0.0.1:{port}/readyz")
    for first in range(0, EVENTS, 500):
        batch = [
            {"specversion": "1.0", "id": f"e-{n}", "source": "/shop", "type": "CartCreated", "data": data(n)}
            for n in range(first, first + 500)
        ]
        headers = {"content-type": "application/cloudevents-batch+json"}
        url = f"http://127.0.0.1:{port}/sources/shop/events"
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(batch).encode(), headers)).read()
    query = "query P($first: Int!) { events(first: $first) { nodes { id ... on CartCreated { data { %s } } } } }"
    return process, port, query % " ".join(FIELDS)


def start_postgraphile(database):
    port = free_port()
    (WORK / "package.json").write_text('{"private": true, "type": "module"}')
    packages = ["postgraphile@5.1.5", "node@22", "graphql@16"]
    if not (WORK / "node_modules/postgraphile").exists():
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", *packages], cwd=WORK, check=True)
    columns = ", ".join(f'payload->>\'{name}\' as "{name}"' for name in TEXTS)
    numbers = "(payload->>'total')::float8 as \"total\", (payload->>'itemCount')::int as \"itemCount\""
    psql(
        database,
        "create schema es",
        "create table es.events as select position as seq, event_id, data::jsonb as payload from entries order by position",
        "alter table es.events add primary key (seq)",
        f"create view es.carts as select seq, event_id, {columns}, {numbers} from es.events",
        "comment on view es.carts is '@primaryKey seq'",
        "comment on table es.events is '@behavior -*'",
        "analyze es.events",
    )
    (WORK / "graphile.config.mjs").write_text(
        'import { PostGraphileAmberPreset } from "postgraphile/presets/amber";\n'
        'import { makePgService } from "postgraphile/adaptors/pg";\n'
        "export default { extends: [PostGraphileAmberPreset], pgServices: [makePgService({ "
        f'connectionString: "{database}", schemas: ["es"] }})], '
        f'grafserv: {{ port: {port}, host: "127.0.0.1", graphiql: false, watch: false }} }};\n'
    )
    node = WORK / "node_modules/node/bin/node"
    command = [node, WORK / "node_modules/.bin/postgraphile", "--config", WORK / "graphile.config.mjs"]
    environment = os.environ | {"GRAPHILE_ENV": "production", "NODE_ENV": "production"}
    process = subprocess.Popen(command, cwd=WORK, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(f"http://127.0.0.1:{port}/graphql")
    query = "query P($first: Int!) { allCarts(first: $first) { nodes { eventId %s } } }"
    return process, port, query % " ".join(FIELDS)


def cpu_seconds(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port, query):
    body = json.dumps({"query": query, "variables": {"first": 50}})
    head = f"POST /graphql HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\naccept: application/json\r\n"
    request = (head + f"content-length: {len(body)}\r\n\r\n" + body).encode()

    def ask():
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(REQUESTS // CONNECTIONS):
                connection.sendall(request)
                answer = connection.recv(1 << 16)
                end = answer.index(b"\r\n\r\n") + 4
                length = int(re.search(rb"(?i)content-length: (\d+)", answer[:end])[1])
                while len(answer) < end + length:
                    answer += connection.recv(1 << 16)
                if answer.count(b"please ring twice") != 50 or b'"errors"' in answer:
                    os.write(2, answer[:500] + b"\n")
                    os.kill(os.getpid(), signal.SIGTERM)

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def main():
    WORK.mkdir(parents=True, exist_ok=True)
    name = f"postern_bench_{secrets.token_hex(4)}"
    database = ADMIN.rsplit("/", 1)[0] + "/" + name
    psql(ADMIN, f"create database {name}")
    running = []
    try:
        sides = {}
        for title, start in [("Postern", start_postern), ("PostGraphile 5", start_postgraphile)]:
            process, port, query = start(database)
            running.append(process)
            sides[title] = (process, port, query, [])
            load(port, query)
        for _ in range(TURNS):
            for process, port, query, measured in sides.values():
                before = cpu_seconds(process)
                load(port, query)
                measured.append((cpu_seconds(process) - before) * 1e6 / REQUESTS)
        medians = {title: statistics.median(measured) for title, (*_, measured) in sides.items()}
        for title, (*_, measured) in sides.items():
            print(f"{title:16} {medians[title]:8.0f} us of CPU a request ({min(measured):.0f}-{max(measured):.0f})")
        print(f"ratio {medians['Postern'] / medians['PostGraphile 5']:.2f}, to be at most 0.33")
    finally:
        for process in running:
            process.terminate()
            process.wait()
        psql(ADMIN, f"drop database {name} with (force)")


main()
