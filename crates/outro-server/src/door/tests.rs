//! Hostile references: none gets out, each has a clear error.

mod remote;

use std::path::Path;
use std::thread;

use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0";
const WAV: &[u8] = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0";
const MP4: &[u8] = b"\0\0\0\x1cftypisom\0\0\0\0isomiso2";

fn rules() -> Rules {
    Rules {
        local: None,
        domains: Vec::new(),
        plain_http: true,
        bytes: 100_000,
        request_bytes: 150_000,
        count: [None; 3],
        fetch: Duration::from_secs(2),
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn url(text: &str) -> Reference {
    Reference::Url(text.to_owned())
}

fn take(door: &Door, reference: Reference) -> Result<Medium, Refused> {
    Ok(door.take(&[(None, reference)], &Cancel::default())?.remove(0))
}

/// A table's row: a reference that is refused with this status and these words, and is not quoted.
#[track_caller]
fn refuses(door: &Door, reference: &str, status: u16, says: &str) {
    match take(door, url(reference)) {
        Ok(medium) => panic!("{reference} was taken: {medium:?}"),
        Err(r) => {
            assert!(
                r.status == status && r.message.contains(says),
                "{reference}: {} {r}",
                r.status
            );
            assert!(
                r.message.starts_with("the medium ") && r.message.len() < 300,
                "{r}"
            );
            assert!(reference.len() < 40 || !r.message.contains(reference), "{r}");
        }
    }
}

// What comes with the request.

#[test]
fn inline_media() {
    let door = Door::new(rules());
    for (mime, bytes, kind) in [
        ("image/png", PNG, Kind::Image),
        ("image/jpeg", PNG, Kind::Image),
        ("video/mp4", MP4, Kind::Video),
        ("audio/mp4", MP4, Kind::Audio),
        ("audio/wav", WAV, Kind::Audio),
        ("application/octet-stream", WAV, Kind::Audio),
        ("", MP4, Kind::Video),
        ("image/gif", b"GIF89a\x01\0\x01\0", Kind::Image),
    ] {
        let medium = take(&door, url(&format!("data:{mime};base64,{}", base64(bytes)))).unwrap();
        assert_eq!((medium.kind, medium.bytes), (kind, bytes.len() as u64), "{mime}");
        let (Part::Image(file) | Part::Video(file) | Part::Audio(file)) = &medium.part else {
            panic!("{:?}", medium.part)
        };
        assert_eq!(std::fs::read(file).unwrap(), bytes);
        let message = format!("{}: is damaged", file.display());
        assert!(door.without_paths(&message).starts_with("medium-"));
        let path = file.to_path_buf();
        drop(medium);
        assert!(!path.exists());
    }
    // The name of a part says of what is open what it is, and nothing else.
    for (stated, bytes, kind) in [
        (Kind::Audio, MP4, Kind::Audio),
        (Kind::Image, MP4, Kind::Video),
        (Kind::Video, b"GIF89a\x01\0\x01\0", Kind::Video),
        (Kind::Video, PNG, Kind::Image),
    ] {
        let reference = Reference::Base64 {
            data: base64(bytes),
            format: None,
        };
        let got = door
            .take(&[(Some(stated), reference)], &Cancel::default())
            .unwrap();
        assert_eq!(got[0].kind, kind, "{stated:?}");
    }
    let sound = Reference::Base64 {
        data: base64(b"\x1A\x45\xDF\xA3 and so on"),
        format: Some("webm".into()),
    };
    let got = door
        .take(&[(Some(Kind::Audio), sound)], &Cancel::default())
        .unwrap();
    assert_eq!(got[0].kind, Kind::Audio);
    let dify = url(&format!("data:video/mp4;base64,{}", base64(MP4)));
    let got = door
        .take(&[(Some(Kind::Image), dify)], &Cancel::default())
        .unwrap();
    assert_eq!(got[0].kind, Kind::Video);
}

#[test]
fn hostile_inline_media() {
    let door = Door::new(rules());
    let of = |mime: &str, bytes: &[u8]| format!("data:{mime};base64,{}", base64(bytes));
    let large = format!("data:image/png;base64,{}", "A".repeat(200_000));
    for (reference, status, says) in [
        ("data:", 422, "is no data URL"),
        ("data:,", 422, "without `;base64`"),
        ("data:image/png,%89PNG", 422, "without `;base64`"),
        ("data:image/png;base64,", 422, "empty (0 bytes)"),
        ("data:image/png;base64,####", 422, "is not base64"),
        ("data:image/png;base64,iVBO\u{e9}", 422, "is not base64"),
        ("data:image/png;base64,iVBORw0K%2BGg", 422, "is not base64"),
        ("data:image/png;base64,_-_-", 422, "is not base64"),
        ("data:image/png;base64,iVBO=iVBO", 422, "is not base64"),
        ("data:image/png;base64,i", 422, "is not base64"),
        (
            "data:text/html;base64,PGh0bWw+",
            422,
            "neither image, video nor audio",
        ),
        ("data:image/svg+xml;base64,PHN2Zz4=", 422, "SVG"),
        ("data:video/jpeg;base64,/9j/,/9j/", 422, "list of frames"),
        ("DATA:Image/PNG;BASE64,", 422, "empty (0 bytes)"),
        (&large, 413, "larger than a medium may be"),
        (
            &of("image/png", MP4),
            422,
            "declared as image/png, and its content is a video",
        ),
        (
            &of("video/mp4", PNG),
            422,
            "declared as video/mp4, and its content is a picture",
        ),
        (&of("audio/wav", PNG), 422, "declared as audio/wav"),
        (
            &of("video/mp4", b"#EXTM3U\nfile:///etc/passwd"),
            422,
            "list of other files",
        ),
        (
            &of("video/mp4", b"ffconcat version 1.0\nfile /etc/passwd"),
            422,
            "list of other files",
        ),
        (
            &of("video/mp4", b"v=0\r\no=- 0 0 IN IP4 127.0.0.1"),
            422,
            "list of other files",
        ),
        (
            &of("video/mp4", b"[playlist]\nFile1=/etc/passwd"),
            422,
            "list of other files",
        ),
        (
            &of("video/mp4", b"<?xml version=\"1.0\"?><MPD>"),
            422,
            "list of other files",
        ),
        (
            &of("image/png", b"<?xml version=\"1.0\"?><svg>"),
            422,
            "list of other files",
        ),
        (&of("image/png", b"  <SVG onload=x>"), 422, "SVG"),
        (&of("image/png", b"<html><script>"), 422, "no known format"),
        (&of("video/mp4", b"\n#EXTM3U\nx"), 422, "no known format"),
        (&of("video/mp4", b"%PDF-1.7"), 422, "no known format"),
        (
            &of("application/octet-stream", b"MZ\x90\0"),
            422,
            "no known format",
        ),
        (&of("", b"\0"), 422, "no known format"),
        (&of("", b"PK\x03\x04"), 422, "no known format"),
        ("javascript:alert(1)", 422, "is a URL"),
        ("blob:https://x/1", 422, "is a URL"),
        ("ftp://media.example/x", 422, "of a scheme that is not fetched"),
        ("s3://bucket/x", 422, "of a scheme that is not fetched"),
        ("https://media.example/x", 403, "this server fetches none"),
        ("file:///etc/passwd", 403, "reads none"),
        ("/etc/passwd", 403, "reads none"),
        ("", 403, "reads none"),
    ] {
        refuses(&door, reference, status, says);
    }
    // What is stated without a head.
    for (data, format, says) in [
        (
            base64(PNG),
            "wav",
            "declared as wav, and its content is a picture",
        ),
        ("nonsense!".into(), "wav", "is not base64"),
        (String::new(), "wav", "empty"),
    ] {
        let reference = Reference::Base64 {
            data,
            format: Some(format.into()),
        };
        let refused = take(&door, reference).unwrap_err();
        assert!(
            refused.status == 422 && refused.message.contains(says),
            "{refused}"
        );
    }
}

#[test]
fn requests_have_bounds() {
    let mut rules = rules();
    rules.count = [Some(1), None, Some(1)];
    let door = Door::new(rules.clone());
    let picture = || (None, url(&format!("data:;base64,{}", base64(PNG))));
    let refused = door
        .take(&[picture(), picture()], &Cancel::default())
        .unwrap_err();
    assert!(
        refused.status == 400 && refused.message.contains("more than 1 images"),
        "{refused}"
    );
    rules.count = [Some(1), Some(0), Some(1)];
    let door = Door::new(rules);
    let refused = door
        .take(&[picture(), picture(), picture()], &Cancel::default())
        .unwrap_err();
    assert!(
        refused.status == 400 && refused.message.contains("at most 2"),
        "{refused}"
    );
    // All together.
    let mut large = PNG.to_vec();
    large.resize(60_000, 0);
    let large = || (None, url(&format!("data:;base64,{}", base64(&large))));
    let door = Door::new(self::rules());
    let refused = door
        .take(&[large(), large(), large()], &Cancel::default())
        .unwrap_err();
    assert!(
        refused.status == 413 && refused.message.starts_with("medium 3 of 3"),
        "{refused}"
    );
    assert!(refused.message.contains("together (150000 bytes)"), "{refused}");
    let cancel = Cancel::default();
    cancel.set();
    assert_eq!(door.take(&[picture()], &cancel).unwrap_err().status, 499);
}

// Local files.

#[cfg(unix)]
#[test]
fn hostile_paths() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("media"), dir.path().join("media-outside"));
    for made in [&root, &outside, &root.join("deep")] {
        std::fs::create_dir(made).unwrap();
    }
    std::fs::write(outside.join("secret.png"), PNG).unwrap();
    for name in ["a.png", "with space%.png", "deep/b.png"] {
        std::fs::write(root.join(name), PNG).unwrap();
    }
    symlink(outside.join("secret.png"), root.join("link.png")).unwrap();
    symlink(&outside, root.join("linked")).unwrap();
    symlink("deep/b.png", root.join("good.png")).unwrap();
    symlink("/proc/self/environ", root.join("environ")).unwrap();
    symlink("/dev/zero", root.join("zero")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(root.join("pipe"))
        .status();
    assert!(fifo.unwrap().success());
    let door = Door::new(Rules {
        local: Some(root.clone()),
        ..rules()
    });
    let at = |name: &str| root.join(name).display().to_string();
    for good in [
        at("a.png"),
        at("deep/../a.png"),
        at("good.png"),
        "a.png".into(),
        "./deep/b.png".into(),
        format!("file://{}", at("a.png")),
        format!("FILE://localhost{}", at("a.png")),
        format!("file:{}", at("a.png")),
        format!("file://{}", at("with%20space%25.png")),
        format!("file://{}", at("%61.png")),
        at("with space%.png"),
    ] {
        assert_eq!(take(&door, url(&good)).unwrap().kind, Kind::Image, "{good}");
    }
    let file = |path: &str| format!("file://{path}");
    for (reference, status, says) in [
        ("/etc/passwd".to_owned(), 403, "not below"),
        (file("/etc/passwd"), 403, "not below"),
        (file("/etc/does-not-exist"), 403, "not below"),
        ("../media-outside/secret.png".into(), 403, "not below"),
        ("deep/../../media-outside/secret.png".into(), 403, "not below"),
        (at("../media-outside/secret.png"), 403, "not below"),
        (outside.join("secret.png").display().to_string(), 403, "not below"),
        (file(&at("%2e%2e/media-outside/secret.png")), 403, "not below"),
        (file(&at("..%2fmedia-outside/secret.png")), 403, "not below"),
        (at("link.png"), 403, "not below"),
        (at("linked/secret.png"), 403, "not below"),
        (at("environ"), 403, "not below"),
        (at("zero"), 403, "not below"),
        ("/proc/self/environ".into(), 403, "not below"),
        (["/proc/self/ro", "ot/etc/passwd"].concat(), 403, "not below"),
        ("/proc/self/fd/0".into(), 403, "not below"),
        ("/dev/stdin".into(), 403, "not below"),
        (at(""), 403, "not below"),
        (at("."), 403, "not below"),
        (at("loop"), 404, "not there"),
        (at("missing.png"), 404, "not there"),
        (at("a.png/x"), 404, "not there"),
        (at("deep"), 422, "is no file"),
        (at("pipe"), 422, "is no file"),
        ("a.png\0.txt".into(), 422, "number 0"),
        (file(&at("a.png%00.txt")), 422, "number 0"),
        (file(&at("a%zz.png")), 422, "percent"),
        (file(&at("a%f")), 422, "percent"),
        (file(&at("%ff.png")), 422, "percent"),
        (file(&at("a.png?x")), 422, "%3F"),
        (format!("file://evil.example{}", at("a.png")), 422, "with a host"),
        ("file:////etc/passwd".into(), 403, "not below"),
        ("file://".into(), 422, "no path"),
        ("x".repeat(5000), 404, "not there"),
    ] {
        let refused = take(&door, url(&reference)).unwrap_err();
        assert!(
            refused.status == status && refused.message.contains(says),
            "{reference:?}: {} {refused}",
            refused.status
        );
        assert!(
            !refused.message.contains("/etc") && !refused.message.contains("secret"),
            "{refused}"
        );
    }
}

// Uploads.

fn uploaded(door: &Door, bytes: &[u8]) -> Result<files::Upload, Refused> {
    let room = Room {
        medium: u64::MAX,
        request: u64::MAX,
        taken: 0,
    };
    let mut spool = Spool::new(&*door.directory()?, "file-", room)?;
    let mut coming = door.files.coming();
    coming.grow(bytes.len() as u64)?;
    spool.write(bytes)?;
    door.files
        .keep(spool.finish(), "a.m4a".into(), "user_data".into(), None)
}

#[test]
fn uploads_are_bounded() {
    let limits = FileLimits {
        count: 3,
        bytes: 1000,
        age: Duration::from_hours(1),
    };
    let door = Door::new(rules()).with_files(limits);
    let id = uploaded(&door, MP4).unwrap().id;
    assert!(id.starts_with("file-") && id.len() == 29, "{id}");
    // Its name says that it is sound.
    let medium = take(&door, Reference::File(id.clone())).unwrap();
    assert_eq!((medium.kind, medium.bytes), (Kind::Audio, MP4.len() as u64));
    // The least used of those that nobody reads go.
    let second = uploaded(&door, PNG).unwrap().id;
    let third = uploaded(&door, PNG).unwrap().id;
    door.files.get(&second).unwrap();
    uploaded(&door, &[0; 900]).unwrap();
    let left = |id: &str| door.files.get(id).is_ok();
    assert!(left(&id) && left(&second) && !left(&third));
    let Part::Audio(file) = &medium.part else {
        panic!("{medium:?}")
    };
    // One that is removed is there as long as it is read.
    door.files.remove(&id).unwrap();
    assert!(!left(&id) && std::fs::read(file).unwrap() == MP4);
    let path = file.to_path_buf();
    drop(medium);
    assert!(!path.exists());
    // What does not fit drives nothing out that is read.
    let kept = uploaded(&door, &[0; 950]).unwrap();
    let refused = uploaded(&door, &[0; 100]).unwrap_err();
    assert!(refused.status == 507 && left(&kept.id), "{refused}");
    drop(kept);
    uploaded(&door, &[0; 100]).unwrap();
    for id in ["", "file-unknown", "../x", "/etc/passwd"] {
        assert_eq!(take(&door, Reference::File(id.into())).unwrap_err().status, 404);
        assert_eq!(door.files.remove(id).unwrap_err().status, 404);
    }
    assert!(Path::new(&door.directory().unwrap().path()).exists());
}

#[test]
fn uploads_go_after_their_time() {
    let door = Door::new(rules()).with_files(FileLimits {
        age: Duration::from_secs(1),
        ..FileLimits::default()
    });
    let file = uploaded(&door, PNG).unwrap();
    let path = file.content.path();
    let id = file.id.clone();
    drop(file);
    thread::sleep(Duration::from_millis(2100));
    assert_eq!(door.files.get(&id).unwrap_err().status, 404);
    assert!(!path.exists());
}
