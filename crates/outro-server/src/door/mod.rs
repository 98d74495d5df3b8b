//! Media of a request: where they may come from, how large they may be, and how they become files that decoders take.

use std::path::PathBuf;
use std::time::Duration;

use outro::chat::Part;
use outro_media::Cancel;

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

/// The door of one server. Blocking: called from a thread that may wait.
#[derive(Debug)]
pub struct Door {
    rules: Rules,
}

impl Door {
    /// A door with these rules.
    pub fn new(rules: Rules) -> Self {
        Self { rules }
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
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
        let _ = (wanted, cancel);
        Err(Refused {
            status: 501,
            message: "media are not taken yet".into(),
        })
    }
}
