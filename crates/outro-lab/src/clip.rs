//! What a question is about, as pictures and sound: a video file, or a directory of frames, as MVBench has them for episodic
//! reasoning.

use std::path::{Path, PathBuf};

use outro_media::{
    Frames, MediaInfo, Options, VideoInfo, probe, read_audio, read_frames_sized, read_image, resize,
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
    /// As [`outro_media::probe`]; a file or a directory without pictures.
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
            let info = probe(path, options)?;
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

    /// Frames by number, resized to rows and columns.
    ///
    /// # Errors
    /// As [`outro_media::read_frames`].
    pub(crate) fn frames(&self, indices: &[usize], (height, width): (usize, usize)) -> Result<Frames> {
        if let Some(file) = &self.file {
            return Ok(read_frames_sized(
                file,
                indices,
                (height, width),
                resize,
                self.options,
            )?);
        }
        let mut all = Frames {
            count: 0,
            height,
            width,
            data: Vec::new(),
        };
        for path in indices.iter().filter_map(|i| self.pictures.get(*i)) {
            let picture = read_image(path, self.options)?;
            all.data.extend(resize(&picture, height, width).data);
            all.count += 1;
        }
        Ok(all)
    }

    /// Sound between two times, mono, 16,000 samples a second; none of a file without it.
    ///
    /// # Errors
    /// As [`outro_media::read_audio`].
    pub(crate) fn samples(&self, start: Option<f64>, end: Option<f64>) -> Result<Vec<f32>> {
        match &self.file {
            Some(file) if file.audio.is_some() => Ok(read_audio(file, start, end, self.options)?),
            _ => Ok(Vec::new()),
        }
    }
}

/// How many frames a second were taken.
pub(crate) fn rate(indices: &[usize], video: &VideoInfo) -> f64 {
    match indices {
        [first, .., last] => (indices.len() - 1) as f64 * video.fps / (last - first).max(1) as f64,
        _ => 0.0,
    }
}
