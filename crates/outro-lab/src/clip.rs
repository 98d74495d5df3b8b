//! What a question is about, as pictures and sound: a video file, or a directory of frames, as MVBench has them for episodic
//! reasoning.

use std::path::{Path, PathBuf};

use outro_media::{
    Frames, MediaInfo, Note, Options, Picks, Pictures, Sound, VideoInfo, probe_video, read_image, read_track,
    read_video, resize,
};

use crate::error::{Error, Result};

/// Frames a second of a directory of frames: TVQA's, and no other benchmark has such directories.
const FPS: f64 = 3.0;

/// An opened video; nothing is decoded but the first picture of a directory.
pub(crate) struct Clip<'a> {
    options: &'a Options,
    /// The file; `None` of a directory.
    file: Option<MediaInfo>,
    /// Its pictures.
    pub(crate) video: VideoInfo,
    /// The files of a directory of frames, in their order.
    pictures: Vec<PathBuf>,
}

impl<'a> Clip<'a> {
    /// # Errors
    /// As [`outro_media::probe_video`]; a file or a directory without pictures.
    pub(crate) fn open(path: &Path, options: &'a Options) -> Result<Self> {
        let mut clip = Self {
            options,
            file: None,
            video: VideoInfo {
                codec: "frames".into(),
                width: 0,
                height: 0,
                fps: FPS,
                frames: 0,
                duration: 0.0,
            },
            pictures: Vec::new(),
        };
        if !path.is_dir() {
            let info = probe_video(path, options)?;
            clip.video = info
                .video
                .clone()
                .ok_or_else(|| Error::file(path, "holds no picture"))?;
            clip.file = Some(info);
            return Ok(clip);
        }
        let entries = std::fs::read_dir(path).map_err(Error::io(path))?;
        let is_picture = |p: &PathBuf| {
            let ending = p.extension().and_then(|e| e.to_str()).unwrap_or_default();
            ["jpg", "jpeg", "png", "webp"].contains(&ending.to_ascii_lowercase().as_str())
        };
        clip.pictures = entries.flatten().map(|e| e.path()).filter(is_picture).collect();
        // `10.jpg` comes after `9.jpg`, whether or not numbers are padded.
        clip.pictures
            .sort_by_key(|p| p.file_stem().map(|s| (s.len(), s.to_owned())));
        let first = clip
            .pictures
            .first()
            .ok_or_else(|| Error::file(path, "holds no frames (.jpg, .png or .webp)"))?;
        let first = read_image(first, options)?;
        clip.video.frames = clip.pictures.len();
        clip.video.duration = clip.video.frames as f64 / FPS;
        (clip.video.height, clip.video.width) = (first.height, first.width);
        Ok(clip)
    }

    /// The frames that `pick` takes, resized.
    ///
    /// # Errors
    /// As [`outro_media::read_video`].
    pub(crate) fn take(&self, pick: &mut dyn FnMut(&VideoInfo) -> Result<Picks>) -> Result<Pictures> {
        if let Some(file) = &self.file {
            return read_video(file, pick, resize, self.options);
        }
        let picks = pick(&self.video)?;
        let (height, width) = picks.size.unwrap_or((self.video.height, self.video.width));
        let mut frames = Frames {
            count: 0,
            height,
            width,
            data: Vec::new(),
        };
        for path in picks.indices.iter().filter_map(|i| self.pictures.get(*i)) {
            let picture = read_image(path, self.options)?;
            frames.data.extend(resize(&picture, height, width).data);
            frames.count += 1;
        }
        Ok(Pictures {
            frames,
            video: self.video.clone(),
            notes: Vec::new(),
        })
    }

    /// Sound between two times, mono, 16,000 samples a second; none of a file without it.
    ///
    /// # Errors
    /// As [`outro_media::read_track`].
    pub(crate) fn sound(&self, start: Option<f64>, end: Option<f64>) -> Result<Sound> {
        match &self.file {
            Some(file) if file.audio.is_some() => Ok(read_track(file, start, end, self.options)?),
            _ => Ok(Sound::default()),
        }
    }

    /// What is to be known about the file.
    pub(crate) fn notes(&self) -> Vec<Note> {
        self.file.as_ref().map_or_else(Vec::new, |f| f.notes.clone())
    }
}

/// How many frames a second were taken.
pub(crate) fn rate(indices: &[usize], video: &VideoInfo) -> f64 {
    match indices {
        [first, .., last] => (indices.len() - 1) as f64 * video.fps / (last - first).max(1) as f64,
        _ => 0.0,
    }
}
