//! A log with a line of JSON per event, in a file of its own.

use std::path::PathBuf;

use nexus_gateway::telemetry::LogTarget;
use serde_json::Value;
use tempfile::TempDir;

use super::gateway::eventually;

/// Where a gateway may write such a log; the file ends with it.
pub(crate) struct LogFile {
    folder: TempDir,
}

impl LogFile {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// What makes a gateway write there.
    pub(crate) fn target(&self) -> LogTarget {
        LogTarget::File(self.path())
    }

    /// All that is written so far.
    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap_or_default()
    }

    /// Waits until so many lines are written, and reads them.
    pub(crate) async fn lines(&self, count: usize) -> Vec<Value> {
        eventually(|| self.text().lines().count() >= count).await;
        self.text().lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}
