//! A `PostgreSQL` server of its own for a test: in a folder that ends with it, on a free port of the loopback.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

const INSTALL: &str = "PostgreSQL, of the Debian package postgresql, has to be installed for this test";

/// The password of the user `gateway`.
pub(crate) const PASSWORD: &str = "s3cret-of-the-gateway";

/// A server that ends with the test. It writes to disk as a server of an operator does.
pub(crate) struct Postgres {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Postgres {
    /// A new server with an empty database.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// One that also speaks TLS, with this certificate and key (PEM).
    #[allow(dead_code, reason = "not everyone who includes this needs it")]
    pub(crate) async fn start_with_tls(certificate: &str, key: &str) -> Self {
        Self::start_with(Some((certificate, key))).await
    }

    async fn start_with(tls: Option<(&str, &str)>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut postgres = Self { folder, port, process: None };
        postgres.make();
        if let Some((certificate, key)) = tls {
            postgres.speak_tls(certificate, key);
        }
        postgres.start_again().await;
        postgres
    }

    fn make(&self) {
        let folder = self.folder.path();
        let password = folder.join("password");
        fs::write(&password, PASSWORD).expect("a file");
        if is_root() {
            let owned = Command::new("chown").args(["-R", "postgres"]).arg(folder).status();
            assert!(owned.expect("chown").success(), "{INSTALL}");
        }
        let made = command("initdb")
            .args(["--username=gateway", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"])
            .arg(format!("--pwfile={}", password.display()))
            .arg(self.data())
            .output()
            .expect(INSTALL);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // Small, and beside its own folder only; fsync and synchronous_commit stay as they are: on.
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nshared_buffers = 32MB\n\
             max_connections = 50\n",
            self.port
        );
        let file = self.data().join("postgresql.auto.conf");
        fs::write(file, settings).expect("a file");
    }

    fn speak_tls(&self, certificate: &str, key: &str) {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let file = self.data().join(name);
            fs::write(&file, text).expect("a file");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its owner may read it");
            if is_root() {
                assert!(Command::new("chown").arg("postgres").arg(&file).status().expect("chown").success());
            }
        }
        let mut settings =
            fs::File::options().append(true).open(self.data().join("postgresql.auto.conf")).expect("a file");
        settings.write_all(b"ssl = on\n").expect("it can be written");
    }

    /// Starts it with what it had when it stopped.
    pub(crate) async fn start_again(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a file");
        let process = command("postgres").arg("-D").arg(self.data()).stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(process.expect(INSTALL));
        let mut tries = 0;
        while tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.is_err() {
            tries += 1;
            assert!(tries < 600, "PostgreSQL does not come up: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the server wrote so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Its first database.
    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// A database of it.
    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://gateway:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A new empty database, and its URL.
    pub(crate) async fn new_database(&self) -> String {
        let name = format!("db_{}", fastrand::u64(..));
        self.run(&self.url(), &format!("CREATE DATABASE {name}")).await;
        self.url_of(&name)
    }

    /// Runs statements that give no rows.
    pub(crate) async fn run(&self, url: &str, sql: &str) {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("a connection");
        let connection = tokio::spawn(connection);
        client.batch_execute(sql).await.expect("it runs");
        drop(client);
        connection.await.expect("it ends").expect("it ends well");
    }

    /// Kills it as a crash of its machine does, but for what the system has not written yet.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Its children end by themselves as soon as they see that it is gone, and so they do when it is told to
            // end at once.
            signal("QUIT", process.id());
            process.wait().expect("it ends");
        }
    }

    /// Stops all its processes where they are, as a machine that hangs.
    pub(crate) fn freeze(&self) {
        self.signal_all("STOP");
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) {
        self.signal_all("CONT");
    }

    fn signal_all(&self, name: &str) {
        let Some(process) = &self.process else { return };
        let children = Command::new("pgrep").args(["-P", &process.id().to_string()]).output().expect("pgrep");
        signal(name, process.id());
        for child in String::from_utf8_lossy(&children.stdout).split_whitespace() {
            signal(name, child.parse().expect("a number"));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        self.kill();
    }
}

fn signal(name: &str, process: u32) {
    // One that has ended meanwhile needs none.
    let _ = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).stderr(Stdio::null()).status();
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A program of `PostgreSQL`. It refuses to run as root, so then it runs as the user that its package has made. It ends
/// when the test does, however that ends.
fn command(program: &str) -> Command {
    let program = binaries().join(program);
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=QUIT");
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(program).current_dir("/");
    command
}

/// Where the newest one that is installed has its programs: Debian does not put them on the path.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect(INSTALL);
    let version = |folder: &Path| folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let found =
        versions.filter_map(|folder| Some(folder.ok()?.path())).filter(|folder| folder.join("bin/initdb").exists());
    found.max_by_key(|folder| version(folder)).expect(INSTALL).join("bin")
}
