//! Files of the director that checks read. One may be on a disk that does not answer, and the checks have one thread:
//! so others read them.

use std::{
    fs::OpenOptions,
    io::{Error, Read, Result},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use tokio::task::spawn_blocking;

/// Longer is no certificate, and no password.
const LONGEST: u64 = 1 << 20;

/// What is in a file.
///
/// # Errors
/// It cannot be read, it is no file (a pipe, a device), or it is longer than a mebibyte.
pub async fn read(path: impl Into<PathBuf>) -> Result<Vec<u8>> {
    let path = path.into();
    spawn_blocking(move || {
        // A pipe would wait for a writer.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(Error::other("it is no file"));
        }
        let mut content = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut content)?;
        if content.len() as u64 > LONGEST { Err(Error::other("it is too long")) } else { Ok(content) }
    })
    .await?
}
