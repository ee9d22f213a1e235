//! A PostgreSQL server of one test's own, for what can't be done to a shared one: to stop it, promote it or wear it out.

use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;

use sqlx::{Connection as _, PgConnection};

pub struct Cluster {
    port: u16,
    data: PathBuf,
    /// Holds the data; made for its owner alone.
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// An empty one that runs.
    ///
    /// # Panics
    /// If PostgreSQL's server programs are not there: a test that needs them fails, and says what to do.
    pub fn create() -> Self {
        let cluster = Self::empty();
        run(cluster
            .program("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres", "-D"])
            .arg(&cluster.data));
        cluster.configure("max_prepared_transactions = 10\nfsync = off\nwal_level = replica\n");
        cluster.start();
        cluster
    }

    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some(user) = server_user() {
            chown(dir.path(), Some(user.0), Some(user.1)).unwrap();
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, data: dir.path().join("data"), _dir: dir }
    }

    /// A copy that follows this one. It does not run yet.
    pub fn standby(&self) -> Self {
        let standby = Self::empty();
        let port = self.port.to_string();
        let copy = ["--no-sync", "-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-h", "127.0.0.1", "-p", &port];
        run(standby.program("pg_basebackup").args(copy).arg("-D").arg(&standby.data));
        standby.configure("");
        standby
    }

    fn configure(&self, more: &str) {
        let path = self.data.join("postgresql.auto.conf");
        let place = format!("port = {}\nunix_socket_directories = '{}'\n", self.port, self.data.display());
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{before}{place}{more}")).unwrap();
    }

    pub fn start(&self) {
        let log = self.data.join("log");
        run(self.pg_ctl("start").arg("-w").arg("-l").arg(log));
    }

    /// As a crash does: what was committed is there afterwards, nothing else is finished.
    pub fn stop(&self) {
        run(self.pg_ctl("stop").args(["-m", "immediate"]));
    }

    fn stop_cleanly(&self) {
        run(self.pg_ctl("stop").args(["-m", "fast"]));
    }

    pub fn promote(&self) {
        run(self.pg_ctl("promote").arg("-w"));
    }

    /// Stands still: the next transaction has this number. What stands between was never used.
    pub fn jump_to(&self, transaction: u32) {
        const SEGMENT: u32 = 1_048_576;
        self.stop_cleanly();
        let segment = self.data.join("pg_xact").join(format!("{:04X}", transaction / SEGMENT));
        std::fs::write(&segment, vec![0; 262_144]).unwrap();
        if let Some(user) = server_user() {
            chown(&segment, Some(user.0), Some(user.1)).unwrap();
        }
        run(self.program("pg_resetwal").arg("-x").arg(transaction.to_string()).arg(&self.data));
        self.start();
    }

    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.unwrap()
    }

    fn pg_ctl(&self, what: &str) -> Command {
        let mut command = self.program("pg_ctl");
        command.args([what, "-s", "-D"]).arg(&self.data);
        command
    }

    /// As the server's user, for servers refuse to be root's.
    fn program(&self, name: &str) -> Command {
        let program = programs().join(name);
        let mut command = match server_user() {
            Some(_) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.current_dir("/").env("LC_ALL", "C");
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.pg_ctl("stop").args(["-m", "immediate"]).output();
    }
}

fn run(command: &mut Command) {
    // To files, not to pipes: a server that was started keeps them open.
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let status = command.stdout(out).stderr(err.reopen().unwrap()).status();
    let status = status.unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
    let said = std::fs::read_to_string(err.path()).unwrap();
    assert!(status.success(), "{command:?}: {status}: {said}");
}

/// Where `initdb` and the others are.
fn programs() -> PathBuf {
    let of_debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = of_debian.map(|version| version.path().join("bin")).collect();
    versions.sort();
    let on_path = std::env::var("PATH").unwrap_or_default();
    let places = std::env::var("POSTERN_TEST_POSTGRES_BIN").into_iter().map(PathBuf::from);
    let places = places.chain(versions.into_iter().rev()).chain(std::env::split_paths(&on_path).collect::<Vec<_>>());
    let found = places.into_iter().find(|place| place.join("initdb").exists());
    found.expect("no initdb: install PostgreSQL's server programs, or set POSTERN_TEST_POSTGRES_BIN to their folder")
}

/// The user and group `postgres`, if this process is root.
fn server_user() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    if std::fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line.expect("root needs a user `postgres` to run a server as").split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}
