//! `events.jsonl` in an instance's state directory: one event a line. IO.
//!
//! It never grows without bound: from [`LIMIT`] on it becomes `events.jsonl.1`, whose predecessor goes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::Event;
use crate::durable;

/// Bytes; there are two files of it at most.
const LIMIT: u64 = 1 << 20;

/// The file, open for more.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    /// None: it could not be opened, or writing to it failed; the next event tries again.
    open: Option<File>,
    /// Events that are not in it.
    missing: u64,
}

impl EventFile {
    /// Reads what earlier agents wrote, oldest first. Lines that are damaged are left out; the last is a sentence
    /// that says so.
    pub fn open(state: &Path) -> (Self, Vec<Event>, Option<String>) {
        let path = state.join("events.jsonl");
        let (mut events, mut damaged, mut wrong) = (Vec::new(), 0, Vec::new());
        for path in [old(&path), path.clone()] {
            match read(&path, &mut events) {
                Ok(bad) => damaged += bad,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => wrong.push(format!("{} cannot be read: {error}", path.display())),
            }
        }
        // What follows must have higher numbers, also after a file that was put together by hand.
        events.sort_by_key(|event: &Event| event.seq);
        if damaged > 0 {
            wrong.push(format!("{damaged} damaged lines of {} are left out", path.display()));
        }
        let warning = (!wrong.is_empty()).then(|| format!("the event log: {}", wrong.join("; ")));
        (Self { path, open: None, missing: 0 }, events, warning)
    }

    /// Puts events behind the others. They are on the disk when this returns.
    ///
    /// # Errors
    /// The system's, with the number of events that are not in the file; the next call tries again.
    pub fn append(&mut self, events: &[Arc<Event>]) -> Result<(), (io::Error, u64)> {
        let written = self.try_append(events);
        written.map_err(|error| {
            self.open = None;
            self.missing += events.len() as u64;
            (error, self.missing)
        })
    }

    fn try_append(&mut self, events: &[Arc<Event>]) -> io::Result<()> {
        let mut text = Vec::new();
        for event in events {
            serde_json::to_writer(&mut text, event)?;
            text.push(b'\n');
            if text.len() as u64 >= LIMIT / 2 {
                self.write(&std::mem::take(&mut text))?;
            }
        }
        self.write(&text)
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let mut file = match self.open.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        if file.stream_position()? + text.len() as u64 > LIMIT {
            fs::rename(&self.path, old(&self.path))?;
            file = open(&self.path)?;
            durable::sync_parent(&self.path)?;
        }
        file.write_all(text)?;
        file.sync_data()?;
        self.open = Some(file);
        Ok(())
    }
}

/// At its end; a line that was cut off there is ended, so that the next one stands by itself.
fn open(path: &Path) -> io::Result<File> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let end = file.seek(SeekFrom::End(0))?;
    if end > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

fn old(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

/// How many lines could not be read.
fn read(path: &Path, events: &mut Vec<Event>) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // Somebody else's, if it is longer: only its end matters.
    file.seek(SeekFrom::Start(length.saturating_sub(2 * LIMIT)))?;
    let mut damaged = 0;
    for line in BufReader::new(file.take(2 * LIMIT)).split(b'\n') {
        let line = line?;
        match serde_json::from_slice(&line) {
            Ok(event) => events.push(event),
            Err(_) if line.is_empty() => {}
            Err(_) => damaged += 1,
        }
    }
    Ok(damaged)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::events::{Draft, Filter, Kind, Ring};

    fn some(ring: &mut Ring, count: usize) -> Vec<Arc<Event>> {
        let reason = "no answer after 1000.0 ms".repeat(4);
        let drafts = (0..count).map(|_| Draft::new(Kind::Problem).because(&reason));
        let events = ring.number(Timestamp::UNIX_EPOCH, drafts);
        ring.add(&events);
        events
    }

    #[test]
    fn events_survive_and_go_on_counting() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut file, events, warning) = EventFile::open(dir.path());
        assert_eq!((events.len(), warning), (0, None));
        let mut ring = Ring::default();
        file.append(&some(&mut ring, 3)).expect("appends");
        file.append(&some(&mut ring, 2)).expect("appends");
        let (mut file, events, warning) = EventFile::open(dir.path());
        assert_eq!(warning, None);
        let mut again = Ring::resume(events);
        assert_eq!(again.list(&Filter::default()), ring.list(&Filter::default()));
        file.append(&some(&mut again, 1)).expect("appends");
        let (_, events, _) = EventFile::open(dir.path());
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn damaged_lines_are_left_out_and_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events.jsonl");
        let (mut file, ..) = EventFile::open(dir.path());
        let mut ring = Ring::default();
        file.append(&some(&mut ring, 2)).expect("appends");
        let mut text = fs::read(&path).expect("it is there");
        let cut = text.len() - 9;
        text.truncate(cut);
        text.splice(0..0, *b"\xff\x00 no event\n");
        fs::write(&path, &text).expect("writable");
        let (mut file, events, warning) = EventFile::open(dir.path());
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1]);
        let warning = warning.expect("it is said");
        assert!(warning.contains("2 damaged lines"), "{warning}");
        // The next one stands on a line of its own.
        file.append(&some(&mut Ring::resume(events), 1)).expect("appends");
        let (_, events, _) = EventFile::open(dir.path());
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn the_files_are_bounded_whatever_comes() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut file, ..) = EventFile::open(dir.path());
        let mut ring = Ring::default();
        for count in [5000, 1, 20_000, 3] {
            file.append(&some(&mut ring, count)).expect("appends");
        }
        let sizes = ["events.jsonl", "events.jsonl.1"]
            .map(|name| fs::metadata(dir.path().join(name)).expect("it is there").len());
        assert!(sizes.iter().all(|size| *size <= LIMIT), "{sizes:?}");
        let (_, events, warning) = EventFile::open(dir.path());
        assert_eq!((events.last().map(|event| event.seq), warning), (Some(25_004), None));
        assert!(events.len() > 4096, "as many as the ring keeps");
    }

    #[test]
    fn a_disk_that_takes_nothing_loses_them_with_a_count() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut file, ..) = EventFile::open(&dir.path().join("gone"));
        let mut ring = Ring::default();
        assert_eq!(file.append(&some(&mut ring, 2)).expect_err("no directory").1, 2);
        assert_eq!(file.append(&some(&mut ring, 1)).expect_err("no directory").1, 3);
        fs::create_dir(dir.path().join("gone")).expect("makes it");
        file.append(&some(&mut ring, 1)).expect("appends");
    }
}
