//! The real binary as a child process.

use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::message::GUARD;
use super::planted;

/// A running `nexus-gateway run`; killed when dropped.
pub(crate) struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    /// What was logged up to the last look.
    seen: String,
}

impl Process {
    /// Runs with a configuration file.
    pub(crate) fn run(config: &Path) -> Self {
        let state = config.parent().expect("a file is in a folder").join("state");
        let mut child = command()
            .args(["run", "--config"])
            .arg(config)
            .arg("--state")
            .arg(state)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let log = BufReader::new(child.stderr.take().expect("its standard error is piped")).lines();
        Self { child, log, seen: String::new() }
    }

    /// Waits for a log line with `text`.
    pub(crate) async fn logs(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.log.next_line().await.expect("the log is text") {
                planted::assert_none_in(&line, "the log of a process");
                self.seen.push_str(&line);
                self.seen.push('\n');
                if line.contains(text) {
                    return line;
                }
            }
            panic!("the process ended without logging {text:?}");
        };
        tokio::time::timeout(GUARD, found).await.unwrap_or_else(|_| panic!("{text:?} is not logged"))
    }

    /// Waits for a log line with `text` and returns the address in it.
    pub(crate) async fn address(&mut self, text: &str) -> std::net::SocketAddr {
        let line = self.logs(text).await;
        let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next());
        address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
    }

    /// Sends it a signal by name.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("the process runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().await;
        assert!(sent.expect("kill is installed").success());
    }

    /// Waits until it ended, and returns all that it logged.
    pub(crate) async fn whole_log(mut self) -> String {
        std::mem::take(&mut self.seen) + &self.rest_of_log().await
    }

    /// Waits until it ended, and returns what it logged since the last look.
    pub(crate) async fn rest_of_log(mut self) -> String {
        let mut text = String::new();
        while let Some(line) = self.log.next_line().await.expect("the log is text") {
            text += &(line + "\n");
        }
        planted::assert_none_in(&text, "the log of a process");
        text
    }

    /// Waits until it ended.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        // A full pipe would keep it from ending.
        let drained = async move { while let Ok(Some(_)) = self.log.next_line().await {} };
        let ended = async { tokio::join!(self.child.wait(), drained).0 };
        tokio::time::timeout(GUARD, ended).await.expect("the process ends").expect("it can be waited for")
    }
}

/// Runs the binary to its end.
pub(crate) async fn output(args: &[&str]) -> Output {
    let running = command().args(args).kill_on_drop(true).output();
    tokio::time::timeout(GUARD, running).await.expect("it ends").expect("the binary starts")
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_nexus-gateway"))
}
