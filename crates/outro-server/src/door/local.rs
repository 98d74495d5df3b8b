//! Files of the server's own disk, below one directory only.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use outro_media::Cancel;

use super::Refused;
use super::spool::Spool;

/// Copies a file below `root` into the spool: what was checked is what is read, however names change meanwhile.
///
/// # Errors
/// 403 for what is not below it once all links are followed; 404 for what is not there.
pub(super) fn read(
    root: Option<&Path>,
    name: &str,
    cancel: &Cancel,
    spool: &mut Spool,
) -> Result<(), Refused> {
    let Some(root) = root else {
        let text = "is a local file, and this server reads none: the directory for media is not set";
        return Err(Refused::new(403, text));
    };
    let mut file = open(root, &path_of(name)?)?;
    let mut piece = vec![0; 1 << 16];
    loop {
        Refused::if_set(cancel)?;
        match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => spool.write(&piece[..n])?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Refused::new(422, "is a local file that cannot be read")),
        }
    }
}

/// The path that a `file:` URL or a path means.
fn path_of(name: &str) -> Result<PathBuf, Refused> {
    let bad = |text: &str| Refused::new(422, text);
    let text = match name.get(..5) {
        Some(scheme) if scheme.eq_ignore_ascii_case("file:") => {
            let rest = &name[5..];
            let path = match rest.strip_prefix("//") {
                Some(rest) => {
                    let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
                    if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") {
                        return Err(bad("is a file: URL with a host: give it the form file:///PATH"));
                    }
                    &rest[host.len()..]
                }
                None => rest,
            };
            if path.contains(['?', '#']) {
                return Err(bad(
                    "is a file: URL with `?` or `#`, which must be written %3F and %23",
                ));
            }
            decoded(path).ok_or_else(|| bad("is a file: URL whose percent signs are no encoding of UTF-8"))?
        }
        _ => name.to_owned(),
    };
    if text.is_empty() || text.contains('\0') {
        return Err(bad("is no path: it is empty, or holds a character of number 0"));
    }
    Ok(text.into())
}

/// Undoes percent-encoding; `None` where it is none.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn open(root: &Path, path: &Path) -> Result<File, Refused> {
    let outside = || {
        let text = "is a local file that is not below the directory for media";
        Refused::new(403, text)
    };
    let missing = || Refused::new(404, "is a local file that is not there, or cannot be read");
    let root = root.canonicalize().map_err(|_| missing())?;
    // A name that is relative is below the directory.
    let path = root.join(path);
    // Devices are not even opened, which alone can do something.
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(_) if lexically(&path).starts_with(&root) => return Err(missing()),
        Err(_) => return Err(outside()),
    };
    if !real.starts_with(&root) || real == root {
        return Err(outside());
    }
    let mut options = OpenOptions::new();
    options.read(true);
    // A pipe that took the file's place meanwhile would be waited for.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(&real).map_err(|_| missing())?;
    // What was opened, whatever the name means by now.
    if !opened(&file, &real).is_some_and(|p| p.starts_with(&root)) {
        return Err(outside());
    }
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return Err(Refused::new(
            422,
            "is no file: directories, pipes and devices are not read",
        ));
    }
    Ok(file)
}

/// A path without `.` and `..`, links not followed.
fn lexically(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut all, part| {
        match part {
            Component::ParentDir => drop(all.pop()),
            Component::CurDir => {}
            part => all.push(part),
        }
        all
    })
}

/// Where the file is that was opened, as the kernel has it.
#[cfg(target_os = "linux")]
fn opened(file: &File, _: &Path) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// Where the file is that was opened: at `real`, if its links still lead there and it is the same file.
#[cfg(all(unix, not(target_os = "linux")))]
fn opened(file: &File, real: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let now = real.canonicalize().ok()?;
    let (a, b) = (file.metadata().ok()?, std::fs::metadata(&now).ok()?);
    (a.dev() == b.dev() && a.ino() == b.ino()).then_some(now)
}

#[cfg(not(unix))]
fn opened(_: &File, real: &Path) -> Option<PathBuf> {
    real.canonicalize().ok()
}
