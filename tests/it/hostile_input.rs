//! What strangers may send, mutated: nothing is answered with 5xx, and nothing in the gateway panics. `scripts/fuzz` goes on
//! where this ends, guided by coverage.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::doors::Doors;

/// One input: a parser that hangs is a way to stop a gateway.
const INPUT_TIME: Duration = Duration::from_secs(5);
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics in the gateway's own code, also of gateways of other tests: there should be none.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.location().is_some_and(|place| place.file().starts_with("src/")) {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            before(info);
        }));
    });
}

/// Numbers that look random and are the same at each run (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (b ^ (b >> 31)) as usize % bound.max(1)
    }
}

/// What parsers stumble over.
const PIECES: [&[u8]; 20] = [
    b"\0",
    b"\xff\xfe",
    b"\n",
    b"\"",
    b"{",
    b"}",
    b"[[[[[[[[[[[[[[[[",
    b"99999999999999999999",
    b"-1",
    b"1e999",
    b"%00",
    b"%",
    b"null",
    b"\xf0\x9f\x98\x80",
    b"\\ud800",
    b"&",
    b"<",
    b"${",
    b"...",
    b":",
];

/// One to four changes: a byte, a piece, a stretch that goes or comes twice, the rest of another input.
fn mutate(input: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 + chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        match chance.below(6) {
            0 if at < bytes.len() => bytes[at] = chance.below(256) as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            2 => drop(bytes.splice(at..at, PIECES[chance.below(PIECES.len())].iter().copied())),
            3 => {
                let end = (at + chance.below(20)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + chance.below(40)).min(bytes.len());
                let stretch = bytes[at..end].to_vec();
                bytes.splice(at..at, stretch);
            }
            _ => {
                let from = chance.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

async fn knock(door: &str, rounds: usize, knock: impl AsyncFn(&Doors, &[u8])) {
    count_panics();
    let folder = format!("{}/fuzz/corpus/{door}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let (doors, mut chance) = (Doors::open().await, Chance(door.len() as u64));
    for round in 0..seeds.len() + rounds {
        let input = match seeds.get(round) {
            Some(seed) => seed.clone(),
            None => {
                let (one, other) = (chance.below(seeds.len()), chance.below(seeds.len()));
                mutate(&seeds[one], &seeds[other], &mut chance)
            }
        };
        let (started, panics) = (Instant::now(), PANICS.load(Ordering::Relaxed));
        knock(&doors, &input).await;
        let shown = String::from_utf8_lossy(&input);
        assert_eq!(PANICS.load(Ordering::Relaxed), panics, "round {round}: something panicked, perhaps at {shown:?}");
        assert!(started.elapsed() < INPUT_TIME, "round {round} took {:?}: {shown:?}", started.elapsed());
        assert!(!doors.gateway.failed().is_cancelled(), "round {round}: a task has crashed at {shown:?}");
    }
    doors.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_events() {
    knock("push", 1_500, async |doors, input| doors.push(input).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphql_documents() {
    knock("graphql", 1_000, async |doors, input| doors.graphql(input).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_and_query_strings() {
    knock("query", 600, async |doors, input| doors.query(input).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_receivers() {
    knock("answer", 80, async |doors, input| doors.answer(input).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_feeds() {
    knock("feed", 300, async |doors, input| doors.feed(input).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_tables() {
    knock("row", 300, async |doors, input| doors.row(input).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configurations() {
    knock("config", 3_000, async |doors, input| doors.config(input).await).await;
}
