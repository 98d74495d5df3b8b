//! What a checkpoint says of the media that it was trained on, and how far others are from them.
//!
//! `domain.safetensors` beside the weights has, for each KIND of `image`, `video`, `audio` that it speaks of, `KIND.mean` `[H]` and
//! `KIND.whiten` `[K, H]` of f32; as metadata `about`, the media in words, and `limit.KIND`, the distance below which they lie. Of a
//! medium the towers make tokens, `[tokens, hidden]`; a token's distance is Mahalanobis's, divided by the root of K: the norm of
//! `whiten (token - mean)`, whose square is 1 on average over the media that the file was made from. A medium's is the mean over its tokens.

use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};

/// The file's name.
pub const FILE: &str = "domain.safetensors";

/// Media that a checkpoint was trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Domain {
    about: String,
    kinds: Vec<Known>,
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    kind: String,
    mean: Vec<f32>,
    whiten: Vec<f32>,
    limit: f64,
}

/// How far a medium is from those that a checkpoint was trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// Mean over its tokens of the root mean square of a standardised token; below 1 for most media of the domain.
    pub value: f64,
    /// Below this lie the domain's own.
    pub limit: f64,
}

impl Distance {
    /// Whether the medium is unlike the domain.
    pub fn is_far(self) -> bool {
        self.value >= self.limit || self.value.is_nan()
    }
}

impl Domain {
    /// Reads `domain.safetensors` of the directory `dir`; `None` where there is none. `hidden` is the decoder's width.
    ///
    /// # Errors
    /// A file whose tensors or metadata are missing or of another size, by name.
    pub fn load(dir: &Path, hidden: usize) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path)(e))?;
        let bad = |problem: String| Error::checkpoint(&path, problem);
        let file =
            SafeTensors::deserialize(&bytes).map_err(|e| bad(format!("not a safetensors file ({e})")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
        let none = HashMap::new();
        let metadata = header.metadata().as_ref().unwrap_or(&none);
        let numbers = |name: &str| -> Result<(Vec<usize>, Vec<f32>)> {
            let t = file.tensor(name).map_err(|_| bad(format!("{name} is missing")))?;
            if t.dtype() != Dtype::F32 {
                return Err(bad(format!("{name} is {:?}, must be F32", t.dtype())));
            }
            let values = t.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            Ok((t.shape().to_vec(), values.collect()))
        };
        let mut kinds = Vec::new();
        for kind in ["image", "video", "audio"] {
            let Some(limit) = metadata.get(&format!("limit.{kind}")) else {
                continue;
            };
            let limit = limit.parse().ok().filter(|l: &f64| l.is_finite() && *l > 0.0);
            let limit = limit.ok_or_else(|| bad(format!("limit.{kind} is no number above 0")))?;
            let [(mean_shape, mean), (shape, whiten)] = [
                numbers(&format!("{kind}.mean"))?,
                numbers(&format!("{kind}.whiten"))?,
            ];
            if mean_shape != [hidden] || shape.len() != 2 || shape[0] == 0 || shape[1] != hidden {
                let problem = format!(
                    "{kind}.mean is {mean_shape:?} and {kind}.whiten {shape:?}, must be [{hidden}] and [K, {hidden}]"
                );
                return Err(bad(problem));
            }
            kinds.push(Known {
                kind: kind.into(),
                mean,
                whiten,
                limit,
            });
        }
        let about = metadata
            .get("about")
            .ok_or_else(|| bad("its metadata has no `about`".into()))?;
        Ok(Some(Self {
            about: about.clone(),
            kinds,
        }))
    }

    /// The media in words.
    pub fn about(&self) -> &str {
        &self.about
    }

    /// A line about media, `[tokens, width]` by kind, that are unlike the domain, or none at all; `None` where they are like it.
    pub fn unfamiliar(&self, media: &[(&str, &[f32])], width: usize) -> Option<String> {
        if media.iter().all(|(_, rows)| rows.is_empty()) {
            return Some(format!(
                "{}; without such a clip its answer means nothing",
                self.about
            ));
        }
        let far = media.iter().filter_map(|(kind, rows)| {
            let distance = self.distance(kind, rows, width).filter(|d| d.is_far())?;
            Some((kind, distance))
        });
        let (kind, d) = far.max_by(|a, b| (a.1.value / a.1.limit).total_cmp(&(b.1.value / b.1.limit)))?;
        Some(format!(
            "{}; this {kind} is unlike them (distance {:.1}, theirs are below {:.1}), and the answer means nothing",
            self.about, d.value, d.limit
        ))
    }

    /// How far a medium of this kind is, given what the towers made of it, `[tokens, width]`; `None` where the file does not
    /// speak of the kind, or there are no tokens.
    pub fn distance(&self, kind: &str, rows: &[f32], width: usize) -> Option<Distance> {
        let known = self.kinds.iter().find(|k| k.kind == kind)?;
        if width != known.mean.len() || rows.len() < width {
            return None;
        }
        let token = |row: &[f32]| {
            let off: Vec<f64> = row
                .iter()
                .zip(&known.mean)
                .map(|(x, m)| f64::from(*x) - f64::from(*m))
                .collect();
            let squares = known.whiten.chunks_exact(width).map(|w| {
                let product: f64 = w.iter().zip(&off).map(|(w, d)| f64::from(*w) * d).sum();
                product * product
            });
            (squares.sum::<f64>() / (known.whiten.len() / width) as f64).sqrt()
        };
        let value = rows.chunks_exact(width).map(token).sum::<f64>() / (rows.len() / width) as f64;
        Some(Distance {
            value,
            limit: known.limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use safetensors::serialize_to_file;
    use safetensors::tensor::TensorView;

    use super::*;

    /// A domain of two channels around (1, 2) with deviations 2 and 0.5.
    fn write(dir: &Path, width: usize, metadata: &[(&str, &str)]) {
        let bytes = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let (mean, whiten) = (bytes(&[1.0, 2.0]), bytes(&[0.5, 0.0, 0.0, 2.0]));
        let view = |shape: &[usize], bytes| TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap();
        let tensors = [
            ("video.mean", view(&[2], &mean)),
            ("video.whiten", view(&[4 / width, width], &whiten)),
        ];
        let metadata = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        serialize_to_file(tensors, Some(metadata.collect()), &dir.join(FILE)).unwrap();
    }

    const WHOLE: [(&str, &str); 2] = [("about", "two channels"), ("limit.video", "1.5")];

    #[test]
    fn distances() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Domain::load(dir.path(), 2).unwrap(), None);
        write(dir.path(), 2, &WHOLE);
        let domain = Domain::load(dir.path(), 2).unwrap().unwrap();
        let of = |rows: &[f32]| domain.distance("video", rows, 2).unwrap();
        assert_eq!(of(&[1.0, 2.0]).value, 0.0);
        assert_eq!(of(&[3.0, 2.5]).value, 1.0);
        assert_eq!(of(&[3.0, 2.5, 1.0, 2.0]).value, 0.5, "the mean over tokens");
        assert!(!of(&[3.0, 2.5]).is_far() && of(&[1.0, 4.0]).is_far() && of(&[f32::NAN, 0.0]).is_far());
        assert!(domain.distance("audio", &[1.0, 2.0], 2).is_none());
        assert!(domain.distance("video", &[], 2).is_none());
        let far = [1.0, 4.0];
        let words = domain.unfamiliar(&[("video", &far), ("audio", &far)], 2).unwrap();
        assert!(
            words.contains("two channels")
                && words.contains("video")
                && words.contains("2.8")
                && words.contains("1.5"),
            "{words}"
        );
        assert_eq!(
            domain.unfamiliar(&[("video", &[1.0, 2.0]), ("image", &[])], 2),
            None
        );
        assert!(domain.unfamiliar(&[("video", &[]), ("image", &[])], 2).is_some());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (width, metadata, part) in [
            (1, &WHOLE[..], "video.whiten"),
            (2, &WHOLE[1..], "about"),
            (2, &[("about", ""), ("limit.video", "0")], "limit.video"),
            (
                2,
                &[("about", ""), ("limit.video", "1"), ("limit.audio", "1")],
                "audio.mean",
            ),
        ] {
            write(dir.path(), width, metadata);
            let why = Domain::load(dir.path(), 2).unwrap_err().to_string();
            assert!(why.contains(part) && why.contains(FILE), "{why}");
        }
        std::fs::write(dir.path().join(FILE), "cut").unwrap();
        assert!(Domain::load(dir.path(), 2).is_err());
    }
}
