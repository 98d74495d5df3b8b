//! Media of a request: where they may come from, how large they may be, and how they become files that decoders take.

mod address;
mod files;
mod inline;
mod local;
mod remote;
mod routes;
mod spool;
#[cfg(test)]
mod tests;
mod url;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outro::chat::{MediaFile, Part};
use outro_media::Cancel;

pub use files::FileLimits;
use files::Files;
use remote::Network;
use spool::{Directory, Room, Spool, Spooled};

/// Where media may come from, and how large they may be.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Local files are read below this directory only; `None` reads none.
    pub local: Option<PathBuf>,
    /// Hosts that remote media may come from, `host` or `host:port`; empty fetches none.
    pub domains: Vec<String>,
    /// Whether `http:` is fetched too.
    pub plain_http: bool,
    /// Most bytes of one medium.
    pub bytes: u64,
    /// Most bytes of all media of a request.
    pub request_bytes: u64,
    /// Most images, videos and sounds of a request; `None` is no limit.
    pub count: [Option<usize>; 3],
    /// Longest time in which a medium is fetched.
    pub fetch: Duration,
}

/// Of what kind a medium is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A picture.
    Image,
    /// A video, with or without sound.
    Video,
    /// Sound.
    Audio,
}

/// What a content part names.
#[derive(Clone, Debug)]
pub enum Reference {
    /// A URL of any scheme (`data:`, `https:`, `file:`), or a path.
    Url(String),
    /// Base64 without a head, with the format that the part states (`wav`, `mp4`).
    Base64 {
        /// The characters.
        data: String,
        /// The stated format.
        format: Option<String>,
    },
    /// An uploaded file's id.
    File(String),
}

/// A medium that is there.
#[derive(Clone, Debug)]
pub struct Medium {
    /// For the engine; holds the file until the last clone is dropped.
    pub part: Part,
    /// What it is, by its content.
    pub kind: Kind,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
    /// How many bytes it has.
    pub bytes: u64,
}

/// Why a medium was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// HTTP status: 400, 403, 404, 413, 422, 504.
    pub status: u16,
    /// What is wrong and what to do; holds no data, key or address that the client does not know.
    pub message: String,
}

impl Refused {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// # Errors
    /// Where the client is gone.
    fn if_set(cancel: &Cancel) -> Result<(), Self> {
        if cancel.is_set() {
            Err(Self::new(499, "cancelled"))
        } else {
            Ok(())
        }
    }

    /// Of what cannot be decoded. The names of files are the server's own.
    fn undecodable(e: &outro_media::Error) -> Self {
        match e {
            outro_media::Error::Damaged { problem, .. } | outro_media::Error::Unusable { problem, .. } => {
                Self::new(422, problem.clone())
            }
            _ => Self::new(500, "cannot be read again from the server's temporary directory"),
        }
    }
}

/// What a head or a format says of a medium.
struct Said {
    kind: Kind,
    /// The word, where the content may not contradict it.
    words: Option<String>,
    /// Whether it counts more than the part's name.
    first: bool,
}

impl Said {
    /// Of a format or a file's ending; `None` of those that say nothing, or are unknown: the content says what it is.
    fn of_format(format: &str) -> Option<Self> {
        let format = format.trim_start_matches('.').to_ascii_lowercase();
        let kind = match format.as_str() {
            "wav" | "mp3" | "flac" | "ogg" | "oga" | "opus" | "m4a" | "m4b" | "aac" | "aif" | "aiff"
            | "amr" | "weba" | "mka" | "pcm16" => Kind::Audio,
            "mp4" | "m4v" | "mov" | "webm" | "mkv" | "avi" | "ts" | "mts" | "m2ts" | "mpg" | "mpeg"
            | "flv" | "3gp" => Kind::Video,
            "png" | "jpg" | "jpeg" | "gif" | "webp" | "bmp" | "tif" | "tiff" | "avif" | "heic" | "heif" => {
                Kind::Image
            }
            _ => return None,
        };
        Some(Self {
            kind,
            words: Some(format),
            first: false,
        })
    }
}

/// The door of one server. Blocking: called from a thread that may wait.
#[derive(Debug)]
pub struct Door {
    rules: Rules,
    network: Network,
    files: Arc<Files>,
    /// Where media lie; made anew where it could not be made before.
    directory: Mutex<Option<Arc<Directory>>>,
}

impl Door {
    /// A door with these rules.
    pub fn new(rules: Rules) -> Self {
        let door = Self {
            rules,
            network: Network::default(),
            files: Arc::new(Files::new(FileLimits::default())),
            directory: Mutex::default(),
        };
        // What a killed server left is removed now, not with the first request; where this fails, that one says so.
        let _ = door.directory();
        door
    }

    /// The same door with other bounds of what is kept of uploads.
    #[must_use]
    pub fn with_files(mut self, limits: FileLimits) -> Self {
        self.files = Arc::new(Files::new(limits));
        self
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The endpoints of uploads (`/v1/files`), to be merged into a server's own. Whoever mounts them checks keys.
    pub fn routes(self: &Arc<Self>) -> axum::Router {
        routes::routes(Arc::clone(self))
    }

    /// A message without the names that media have on this server: errors of decoders begin with one.
    #[must_use]
    pub fn without_paths(&self, message: &str) -> String {
        let Ok(directory) = self.directory() else {
            return message.to_owned();
        };
        let dir = format!("{}{}", directory.path().display(), std::path::MAIN_SEPARATOR);
        message.replace(&dir, "")
    }

    /// Gets the media of a request, in order. `stated` is the kind that a part's name says; the content decides.
    ///
    /// # Errors
    /// [`Refused`]; status 499 where `cancel` was set.
    pub fn take(
        &self,
        wanted: &[(Option<Kind>, Reference)],
        cancel: &Cancel,
    ) -> Result<Vec<Medium>, Refused> {
        self.countable(wanted)?;
        let (mut all, mut counts) = (Vec::with_capacity(wanted.len()), [0_usize; 3]);
        let mut room = Room {
            medium: self.rules.bytes,
            request: self.rules.request_bytes,
            taken: 0,
        };
        for (i, (stated, reference)) in wanted.iter().enumerate() {
            let of = wanted.len();
            let numbered = |r: Refused| Refused {
                message: match of {
                    1 => format!("the medium {}", r.message),
                    _ => format!("medium {} of {of} {}", i + 1, r.message),
                },
                ..r
            };
            Refused::if_set(cancel)?;
            let medium = self.one(*stated, reference, room, cancel).map_err(numbered)?;
            room.taken = room.taken.saturating_add(medium.bytes);
            counts[medium.kind as usize] += 1;
            self.counted(counts)?;
            all.push(medium);
        }
        Ok(all)
    }

    /// More than could be taken, whatever they are, are refused before one is fetched.
    fn countable(&self, wanted: &[(Option<Kind>, Reference)]) -> Result<(), Refused> {
        let most = self
            .rules
            .count
            .iter()
            .try_fold(0_usize, |sum, n| Some(sum.saturating_add((*n)?)));
        match most {
            Some(most) if wanted.len() > most => {
                let text = format!(
                    "there are {} media; at most {most} are taken in a request",
                    wanted.len()
                );
                Err(Refused::new(400, text))
            }
            _ => Ok(()),
        }
    }

    fn counted(&self, counts: [usize; 3]) -> Result<(), Refused> {
        for ((count, most), name) in counts
            .iter()
            .zip(self.rules.count)
            .zip(["images", "videos", "sounds"])
        {
            if let Some(most) = most.filter(|m| count > m) {
                let text =
                    format!("there are more than {most} {name}, which is the most that a request may have");
                return Err(Refused::new(400, text));
            }
        }
        Ok(())
    }

    fn directory(&self) -> Result<Arc<Directory>, Refused> {
        let mut held = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = &*held {
            return Ok(Arc::clone(directory));
        }
        let made = Directory::new(&std::env::temp_dir()).map_err(|e| spool::disk(&e))?;
        Ok(Arc::clone(held.insert(Arc::new(made))))
    }

    fn one(
        &self,
        stated: Option<Kind>,
        reference: &Reference,
        room: Room,
        cancel: &Cancel,
    ) -> Result<Medium, Refused> {
        if let Reference::File(id) = reference {
            let upload = self.files.get(id)?;
            room.check(upload.content.bytes)?;
            let ending = upload.name.rsplit_once('.').and_then(|(_, e)| Said::of_format(e));
            // A name is only a name.
            let said = ending.map(|s| Said { words: None, ..s });
            return Self::settled(&upload.content, said, stated);
        }
        let mut spool = Spool::new(&*self.directory()?, "medium-", room)?;
        let said = match reference {
            Reference::Base64 { data, format } => {
                inline::decode(data, room, cancel, &mut spool)?;
                format.as_deref().and_then(Said::of_format)
            }
            Reference::Url(url) => self.url(url, room, cancel, &mut spool)?,
            Reference::File(_) => None,
        };
        Self::settled(&spool.finish(), said, stated)
    }

    fn url(
        &self,
        url: &str,
        room: Room,
        cancel: &Cancel,
        spool: &mut Spool,
    ) -> Result<Option<Said>, Refused> {
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        // A letter and a colon are a drive.
        let scheme = url.split_once(':').map(|(scheme, _)| scheme).filter(|s| {
            s.len() > 1
                && s.len() < 20
                && s.starts_with(|c: char| c.is_ascii_alphabetic())
                && s.chars().all(is_scheme)
        });
        let scheme = scheme.map(str::to_ascii_lowercase);
        match scheme.as_deref() {
            Some("data") => {
                let (data, said) = inline::data_url(&url[5..])?;
                inline::decode(data, room, cancel, spool)?;
                Ok(said)
            }
            None | Some("file") => {
                local::read(self.rules.local.as_deref(), url, cancel, spool)?;
                let ending = url.rsplit_once('.').and_then(|(_, e)| Said::of_format(e));
                Ok(ending.map(|s| Said { words: None, ..s }))
            }
            Some(_) => remote::fetch(&self.rules, &self.network, url, cancel, spool).map(|()| None),
        }
    }

    /// What has come is looked at: its first bytes say what it may be, heads and names which of those it is.
    fn settled(content: &Spooled, said: Option<Said>, stated: Option<Kind>) -> Result<Medium, Refused> {
        let path = content.path();
        let kinds: Vec<Kind> = outro_media::kinds(&path)
            .map_err(|e| Refused::undecodable(&e))?
            .iter()
            .map(|k| Kind::from(*k))
            .collect();
        let first = kinds.first().copied().unwrap_or(Kind::Video);
        if let Some(Said {
            kind,
            words: Some(words),
            ..
        }) = &said
            && !kinds.contains(kind)
        {
            let words: String = words.chars().take(50).collect();
            let text = format!("is declared as {words}, and its content is {}", first.name());
            return Err(Refused::new(422, text));
        }
        let heads_first = said.as_ref().is_some_and(|s| s.first) && first != Kind::Image;
        let said = said.map(|s| s.kind);
        let order = if heads_first {
            [said, stated]
        } else {
            [stated, said]
        };
        let fits = |k: &Kind| kinds.contains(k);
        let kind = order.into_iter().flatten().find(fits).unwrap_or(first);
        let file = MediaFile::held(path, content.file.clone());
        Ok(Medium {
            part: match kind {
                Kind::Image => Part::Image(file),
                Kind::Video => Part::Video(file),
                Kind::Audio => Part::Audio(file),
            },
            kind,
            hash: content.hash,
            bytes: content.bytes,
        })
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Image => "a picture",
            Self::Video => "a video",
            Self::Audio => "sound",
        }
    }
}

impl From<outro_media::Kind> for Kind {
    fn from(kind: outro_media::Kind) -> Self {
        match kind {
            outro_media::Kind::Image => Self::Image,
            outro_media::Kind::Video => Self::Video,
            outro_media::Kind::Audio => Self::Audio,
        }
    }
}
