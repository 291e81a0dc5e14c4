//! An initramfs: a tree of files written as a cpio archive in the "newc" format
//! (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files by their absolute path; directories above them come by themselves.
#[derive(Default)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

enum Entry {
    Directory,
    File { content: Vec<u8>, mode: u32 },
    Link { target: String },
    CharDevice { major: u32, minor: u32 },
}

impl Tree {
    pub fn directory(&mut self, path: impl AsRef<Path>) {
        self.insert(path.as_ref(), Entry::Directory);
    }

    /// `mode` is the permissions, as of chmod.
    pub fn file(&mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>, mode: u32) {
        self.insert(path.as_ref(), Entry::File { content: content.into(), mode });
    }

    pub fn link(&mut self, path: impl AsRef<Path>, target: &str) {
        self.insert(path.as_ref(), Entry::Link { target: target.to_owned() });
    }

    pub fn char_device(&mut self, path: impl AsRef<Path>, major: u32, minor: u32) {
        self.insert(path.as_ref(), Entry::CharDevice { major, minor });
    }

    pub fn contains(&self, path: impl AsRef<Path>) -> bool {
        self.entries.contains_key(path.as_ref())
    }

    /// The archive. A directory comes before what is in it, as the kernel needs it: BTreeMap's order.
    pub fn archive(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (inode, (path, entry)) in (1_u32..).zip(&self.entries) {
            let name = path.to_string_lossy();
            record(&mut out, inode, name.trim_start_matches('/'), entry);
        }
        record(&mut out, 0, "TRAILER!!!", &Entry::File { content: Vec::new(), mode: 0 });
        out
    }

    fn insert(&mut self, path: &Path, entry: Entry) {
        for above in path.ancestors().skip(1).filter(|above| above.parent().is_some()) {
            self.entries.entry(above.to_owned()).or_insert(Entry::Directory);
        }
        self.entries.insert(path.to_owned(), entry);
    }
}

fn record(out: &mut Vec<u8>, inode: u32, name: &str, entry: &Entry) {
    // Types as of stat(2).
    let (mode, content, (major, minor)) = match entry {
        Entry::Directory => (0o040_755, &[][..], (0, 0)),
        Entry::File { content, mode } => (0o100_000 | mode, content.as_slice(), (0, 0)),
        Entry::Link { target } => (0o120_777, target.as_bytes(), (0, 0)),
        Entry::CharDevice { major, minor } => (0o020_600, &[][..], (*major, *minor)),
    };
    // Both fit: the kernel takes no archive of 4 GiB, nor do we have such a file.
    let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
    let (uid, gid, links, time, check) = (0, 0, 1, 0, 0);
    out.extend(b"070701");
    for field in [inode, mode, uid, gid, links, time, size, 0, 0, major, minor, name_size, check] {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name.bytes());
    out.push(0);
    pad(out);
    out.extend(content);
    pad(out);
}

/// Headers with their names, and contents, end at multiples of four.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_format_says() {
        let mut tree = Tree::default();
        tree.file("/etc/motd", "hello", 0o644);
        let archive = tree.archive();
        let text = String::from_utf8(archive.clone()).expect("this one is text");
        let header = |inode: u32, mode: u32, size: u32, name: u32| {
            format!(
                "070701{inode:08x}{mode:08x}{:016x}{:08x}{:08x}{size:08x}{:032x}{name:08x}{:08x}",
                0, 1, 0, 0, 0
            )
        };
        let directory = header(1, 0o040_755, 0, 4) + "etc\0\0\0";
        let file = header(2, 0o100_644, 5, 9) + "etc/motd\0\0hello\0\0\0";
        assert_eq!(&text[..directory.len()], directory);
        assert_eq!(&text[directory.len()..directory.len() + file.len()], file);
        assert!(text.contains("TRAILER!!!"));
        assert_eq!(archive.len() % 4, 0);
    }

    #[test]
    fn directories_come_first_and_links_carry_their_target() {
        let mut tree = Tree::default();
        tree.link("/bin/ls", "busybox");
        tree.file("/bin/busybox", [1, 2], 0o755);
        tree.char_device("/dev/console", 5, 1);
        assert!(tree.contains("/bin") && tree.contains("/dev/console") && !tree.contains("/sbin"));
        let archive = tree.archive();
        let at = |needle: &[u8]| {
            archive.windows(needle.len()).position(|window| window == needle).expect("is there")
        };
        assert!(at(b"bin\0") < at(b"bin/busybox\0"));
        assert!(at(b"bin/busybox\0") < at(b"bin/ls\0"));
        // Padded to eight, then the next header: no name stands so.
        assert!(at(b"bin/ls\0") < at(b"busybox\x00070701"));
    }
}
