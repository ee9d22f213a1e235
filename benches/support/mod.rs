//! Measuring on a machine that does other things too: CPU time per item instead of wall time, against a ceiling that
//! does the bare minimum in the same run, in turns, and medians of the repetitions.
//!
//! Everything runs on one core where that can be arranged: what is measured then does not depend on which core woke
//! which, and wall rates include the load generator.

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Threads whose names start with this make or take load; their time is not counted.
pub const LOAD: &str = "load";

/// Pins this process to its last core. Without `taskset` it runs where it may.
pub fn pin() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("0");
    let core = allowed.trim().rsplit([',', '-']).next().unwrap_or("0").to_owned();
    let pid = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-acp", &core, &pid]).stdout(Stdio::null()).status();
    if !pinned.is_ok_and(|status| status.success()) {
        println!("taskset is missing: not pinned to one core, expect more scatter");
    }
}

/// A runtime with one worker, so that one side can't hide its work on another core.
pub fn runtime(name: &str) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(1).thread_name(name).enable_all().build()?)
}

/// What so many items took.
#[derive(Clone, Copy)]
pub struct Measured {
    cpu_us: f64,
    per_second: f64,
}

/// A measurement that runs.
pub struct Meter {
    threads: HashMap<String, u64>,
    pub started: Instant,
}

impl Meter {
    /// # Errors
    /// A system without `/proc`.
    pub fn start() -> anyhow::Result<Self> {
        Ok(Self { threads: threads()?, started: Instant::now() })
    }

    /// # Errors
    /// See [`Meter::start`].
    pub fn stop(self, items: usize) -> anyhow::Result<Measured> {
        let wall = self.started.elapsed();
        self.stop_after(wall, items)
    }

    /// For work that goes on a little longer than the wall time that is of interest.
    ///
    /// # Errors
    /// See [`Meter::start`].
    pub fn stop_after(self, wall: Duration, items: usize) -> anyhow::Result<Measured> {
        let spent = |(thread, now): (String, u64)| now - self.threads.get(&thread).copied().unwrap_or(0);
        let nanos: u64 = threads()?.into_iter().map(spent).sum();
        let items = items as f64;
        Ok(Measured { cpu_us: nanos as f64 / 1_000.0 / items, per_second: items / wall.as_secs_f64() })
    }
}

/// Nanoseconds on a core, by thread.
fn threads() -> anyhow::Result<HashMap<String, u64>> {
    let folder = fs::read_dir("/proc/self/task").context("CPU time is read from /proc, which Linux has")?;
    let mut threads = HashMap::new();
    for entry in folder {
        let path = entry?.path();
        // A thread may end while we look; one that ended in between does not count, which only idle ones do.
        let (Ok(name), Ok(times)) = (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
        else {
            continue;
        };
        if !name.starts_with(LOAD) {
            let nanos =
                times.split(' ').next().and_then(|text| text.parse().ok()).context("schedstat has another form")?;
            threads.insert(path.display().to_string(), nanos);
        }
    }
    Ok(threads)
}

/// One thing measured in turns with its ceiling.
pub struct Comparison {
    name: &'static str,
    target: f64,
    ours: Vec<Measured>,
    ceiling: Vec<Measured>,
}

impl Comparison {
    /// `target` is the ratio of the ceiling's CPU time to ours that we aim at.
    pub fn new(name: &'static str, target: f64) -> Self {
        Self { name, target, ours: Vec::new(), ceiling: Vec::new() }
    }

    pub fn add(&mut self, ours: Measured, ceiling: Measured) {
        self.ours.push(ours);
        self.ceiling.push(ceiling);
    }
}

/// Prints what was found. Judges nothing: a ratio below its target is only marked.
pub fn print(item: &str, comparisons: &[Comparison]) {
    println!("{:<44} {:>22} {:>22}  ratio  target", "", "ours", "ceiling");
    for Comparison { name, target, ours, ceiling } in comparisons {
        let (our, their) = (spread(ours, |m| m.cpu_us), spread(ceiling, |m| m.cpu_us));
        let ratio = their.1 / our.1;
        let mark = if ratio < *target { "  below target" } else { "" };
        let show = |(min, median, max): (f64, f64, f64)| format!("{median:.2} ({min:.2}-{max:.2})");
        let what = format!("{name}, CPU us/{item}");
        println!("{what:<44} {:>22} {:>22}   {ratio:.2}  >= {target:.2}{mark}", show(our), show(their));
        let rates = (spread(ours, |m| m.per_second).1, spread(ceiling, |m| m.per_second).1);
        println!("{:<44} {:>22.0} {:>22.0}", "    wall, per second", rates.0, rates.1);
    }
    println!();
}

/// Least, median and greatest.
fn spread(measured: &[Measured], value: impl Fn(&Measured) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = measured.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}
