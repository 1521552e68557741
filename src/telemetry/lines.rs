//! Lines that go to standard output or a file without holding up who writes them.
//!
//! They go to a bounded queue and from there to the file on a thread of its own; when the disk cannot keep up, lines are
//! dropped and counted. A file that was moved away or deleted is opened anew under its name, as whoever rotates logs
//! expects it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::LogTarget;

/// Lines that wait for the disk; about 400 bytes each.
const QUEUE: usize = 16_384;

/// Time between two looks whether a file is still where it was opened.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Writes lines. Dropping it writes what waits.
pub struct LineWriter {
    writer: NonBlocking,
    dropped: ErrorCounter,
    _guard: WorkerGuard,
}

impl LineWriter {
    /// Opens `target` for lines; a file is appended to. `name` is the thread's.
    pub fn open(target: &LogTarget, name: &'static str) -> io::Result<Self> {
        let builder = NonBlockingBuilder::default().buffered_lines_limit(QUEUE).lossy(true).thread_name(name);
        let (writer, guard) = match target {
            LogTarget::Stdout => builder.finish(io::stdout()),
            LogTarget::File(path) => builder.finish(Rotated::open(path.clone(), LOOK_EVERY)?),
        };
        Ok(Self { dropped: writer.error_counter(), writer, _guard: guard })
    }

    /// Lines dropped because the queue was full.
    pub fn dropped(&self) -> usize {
        self.dropped.dropped_lines()
    }

    /// Writes one line of JSON.
    pub(super) fn write(&self, line: &impl Serialize) {
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            // The writer takes the line or counts it as dropped; it has no other errors.
            let _ = self.writer.clone().write_all(&text);
        }
    }
}

/// A file that is opened anew once it is not the one of its name any more.
struct Rotated {
    path: PathBuf,
    file: File,
    every: Duration,
    looked: Instant,
}

impl Rotated {
    fn open(path: PathBuf, every: Duration) -> io::Result<Self> {
        Ok(Self { file: append(&path)?, path, every, looked: Instant::now() })
    }

    fn look(&mut self) {
        if self.looked.elapsed() < self.every {
            return;
        }
        self.looked = Instant::now();
        let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let here = std::fs::metadata(&self.path).map(place);
        let open = self.file.metadata().map(place);
        if here.ok() != open.ok() {
            match append(&self.path) {
                Ok(file) => self.file = file,
                // What was opened last takes the lines until that works.
                Err(error) => tracing::warn!(path = %self.path.display(), %error, "cannot open a log file anew"),
            }
        }
    }
}

impl Write for Rotated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.look();
        // Whole lines: to stop inside one would put its rest into another file.
        self.file.write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let mut log = Rotated::open(path.clone(), Duration::ZERO).unwrap();
        log.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        log.write_all(b"two\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        log.write_all(b"three\n").unwrap();
        assert_eq!((read(&old), read(&path)), ("one\n".into(), "three\n".into()));
        // Where it cannot be opened, nothing is lost.
        std::fs::rename(&path, &old).unwrap();
        std::fs::create_dir(&path).unwrap();
        log.write_all(b"four\n").unwrap();
        assert_eq!(read(&old), "three\nfour\n");
    }

    #[test]
    fn it_is_not_looked_for_all_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut log = Rotated::open(path.clone(), Duration::from_secs(3600)).unwrap();
        std::fs::rename(&path, &old).unwrap();
        log.write_all(b"one\n").unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\n");
    }
}
