//! The prompt itself: a strip of its tokens, the sinks one by one, and the frames on which visual sinks sit.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use outro::inputs::{Inputs, Pixels};
use outro::positions::Span;
use outro_media::PatchConfig;
use serde::Serialize;

use super::svg::{LINE, escape, places, short};
use super::{InspectedPrompt, Sheet};
use crate::probe::{Kind, Profile};

/// A token of the prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its text, or its place: frame, row and column, or second of sound.
    pub text: String,
}

impl Token {
    /// From its span; `word` is its text, `seconds(video)` what one temporal step of a video lasts.
    pub fn new(span: &Span, word: &str, seconds: impl Fn(usize) -> f32) -> Self {
        let text = match span {
            Span::Text => word.escape_debug().to_string(),
            Span::Image { item, y, x } => format!("image {item}, row {y}, column {x}"),
            Span::Video { item, t, y, x } => {
                format!(
                    "video {item}, {:.1} s, row {y}, column {x}",
                    *t as f32 * seconds(*item)
                )
            }
            Span::Audio { item, index } => format!("sound {item}, {:.2} s", *index as f32 / 25.0),
        };
        Self {
            kind: span.into(),
            text,
        }
    }
}

/// Row and column of a token, and how often it is marked, over layers and detectors.
type Mark = (usize, usize, usize);

/// A frame of a video, small, and its tokens that are marked.
#[derive(Clone, Debug)]
pub struct Frame {
    item: usize,
    step: usize,
    seconds: f32,
    /// Tokens down and across.
    grid: [usize; 2],
    marks: Vec<Mark>,
    /// `data:image/png;base64,...`
    picture: String,
}

/// Most frames that a report shows.
const FRAMES: usize = 12;
/// About the width of a thumbnail, in pixels.
const WIDTH: usize = 160;

/// The frames with most marks of Phi_VLM or of OutRo's sinks, in the videos' order.
pub fn frames(profile: &Profile, spans: &[Span], inputs: &Inputs, patch: &PatchConfig) -> Vec<Frame> {
    let mut layers_of: BTreeMap<usize, usize> = BTreeMap::new();
    for position in profile
        .layers
        .iter()
        .flat_map(|l| l.visual.iter().chain(&l.sinks))
    {
        *layers_of.entry(*position).or_default() += 1;
    }
    let mut found: BTreeMap<(usize, usize), Vec<Mark>> = BTreeMap::new();
    for (position, layers) in layers_of {
        if let Some(Span::Video { item, t, y, x }) = spans.get(position) {
            found.entry((*item, *t)).or_default().push((*y, *x, layers));
        }
    }
    let mut order: Vec<_> = found.into_iter().collect();
    order.sort_by_key(|(_, marks)| std::cmp::Reverse(marks.iter().map(|m| m.2).sum::<usize>()));
    order.truncate(FRAMES);
    order.sort_by_key(|(place, _)| *place);
    let Some(pixels) = &inputs.pixel_values_videos else {
        return Vec::new();
    };
    let frame = |((item, step), marks)| {
        // Its first frame has all of a frame's tokens in the prompt.
        let places = spans.iter().filter_map(|s| match s {
            Span::Video { item: of, y, x, .. } if *of == item => Some([y + 1, x + 1]),
            _ => None,
        });
        let grid = places.reduce(|a, b| [a[0].max(b[0]), a[1].max(b[1])])?;
        let picture = thumbnail(pixels, item, step, patch)?;
        Some(Frame {
            item,
            step,
            seconds: step as f32 * inputs.second_per_grid.get(item).copied().unwrap_or(1.0),
            grid,
            marks,
            picture,
        })
    };
    order.into_iter().filter_map(frame).collect()
}

/// The first frame of a temporal step as a small PNG; `None` where the patches are not what `patch` describes.
fn thumbnail(pixels: &Pixels, item: usize, step: usize, c: &PatchConfig) -> Option<String> {
    let [_, h, w] = *pixels.grid_thw.get(item)?;
    let before: usize = pixels.grid_thw[..item]
        .iter()
        .map(|g| g.iter().product::<usize>())
        .sum();
    let square = c.patch * c.patch;
    if pixels.cols != 3 * c.temporal * square {
        return None;
    }
    let (height, width) = (h * c.patch, w * c.patch);
    let shrink = (width / WIDTH).max(1);
    let (rows, cols) = (height / shrink, width / shrink);
    let mut rgb = Vec::with_capacity(rows * cols * 3);
    for y in (0..rows).map(|y| y * shrink) {
        for x in (0..cols).map(|x| x * shrink) {
            let (py, px) = (y / c.patch, x / c.patch);
            let block = (py / c.merge) * (w / c.merge) + px / c.merge;
            let inner = (py % c.merge) * c.merge + px % c.merge;
            let row = before + step * h * w + block * c.merge * c.merge + inner;
            for channel in 0..3 {
                let at = channel * c.temporal * square + (y % c.patch) * c.patch + x % c.patch;
                let value = *pixels.data.get(row * pixels.cols + at)?;
                rgb.push(
                    ((value * c.std[channel] + c.mean[channel]) * 255.0)
                        .round()
                        .clamp(0.0, 255.0) as u8,
                );
            }
        }
    }
    let png = outro_media::write_png(cols, rows, &rgb).ok()?;
    Some(format!("data:image/png;base64,{}", base64(&png)))
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let all = three.iter().fold(0u32, |a, b| a << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            if i <= three.len() {
                out.push(char::from(DIGITS[(all >> (18 - 6 * i)) as usize & 63]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// Tokens, sinks and frames of one prompt.
pub(super) fn section(out: &mut Sheet, prompt: &InspectedPrompt) {
    out.html.push_str("<h2>The prompt</h2>");
    out.figure(
        "Tokens of the prompt",
        strip(prompt),
        "From the first token to the last.",
    );
    table(&mut out.html, prompt);
    if prompt.frames.is_empty() {
        return;
    }
    out.html.push_str("<h3>Frames at which visual sinks sit</h3><p class=\"soft\">Boxes are tokens that Phi_VLM marks or OutRo takes for sinks; in how many layers is in their tooltips.</p><div class=\"frames\">");
    for f in &prompt.frames {
        let [h, w] = f.grid;
        let (height, width) = (h * 20, w * 20);
        let name = format!("video {}, {:.1} s", f.item, f.seconds);
        // Writing to a String cannot fail, here and below.
        let mut svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{name}, {} tokens marked\">\
            <image href=\"{}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\"/>",
            f.marks.len(),
            f.picture
        );
        for (y, x, layers) in &f.marks {
            let _ = write!(
                svg,
                "<g><title>row {y}, column {x}: marked {layers} times</title><rect x=\"{0}\" y=\"{1}\" width=\"18\" height=\"18\" class=\"box2\"/>\
                <rect x=\"{0}\" y=\"{1}\" width=\"18\" height=\"18\" class=\"box\"/></g>",
                x * 20 + 1,
                y * 20 + 1
            );
        }
        svg.push_str("</svg>");
        let caption = format!("{name} (step {})", f.step);
        let _ = write!(
            out.html,
            "<figure>{svg}<figcaption>{caption}</figcaption></figure>"
        );
        out.keep(
            &format!("Frame of video {}, step {}", f.item, f.step),
            svg,
            &caption,
        );
    }
    out.html.push_str("</div>");
}

/// What the strip's colours and marks mean, beneath it.
fn key(out: &mut String, kinds: &[Kind], width: f64, top: f64) {
    let there = Kind::ALL.iter().filter(|kind| kinds.contains(kind));
    let mut entries: Vec<(String, &str)> = there
        .map(|kind| {
            let swatch = format!(
                "<rect x=\"8\" y=\"3\" width=\"12\" height=\"12\" class=\"k-{}\"/>",
                kind.name()
            );
            (swatch, kind.name())
        })
        .collect();
    entries.extend([
        (
            "<path d=\"M8 3h12l-6 12Z\" class=\"mark\"/>".into(),
            "sink that is watched",
        ),
        (
            "<path d=\"M14 3v12\" class=\"tick\"/>".into(),
            "marked by Phi_VLM in some layer",
        ),
        (
            "<path d=\"M14 3v12\" class=\"seen\"/>".into(),
            "marked by attention mass in some layer",
        ),
    ]);
    let names: Vec<&str> = entries.iter().map(|e| e.1).collect();
    for ((x, line), (mark, name)) in places(&names, width).0.into_iter().zip(&entries) {
        let _ = write!(
            out,
            "<g transform=\"translate({:.1} {:.1})\">{mark}<text x=\"26\" y=\"13\" class=\"t\">{name}</text></g>",
            x - 63.0,
            top + LINE * line as f64
        );
    }
}

fn strip(prompt: &InspectedPrompt) -> String {
    let p = &prompt.profile;
    let n = p.kinds.len().max(1);
    let width = 1100.0;
    let x = |i: usize| i as f64 / n as f64 * width;
    let mut out = format!(
        "<svg viewBox=\"-7 -18 {} 94\" role=\"img\" aria-label=\"The {n} tokens of the prompt by kind, with sinks marked\">",
        width + 14.0
    );
    let mut start = 0;
    for run in p.kinds.chunk_by(|a, b| a == b) {
        let name = run[0].name();
        let _ = write!(
            out,
            "<rect x=\"{:.2}\" y=\"0\" width=\"{:.2}\" height=\"26\" class=\"k-{name}\"><title>tokens {start} to {}: {name}</title></rect>",
            x(start),
            x(run.len()),
            start + run.len() - 1
        );
        start += run.len();
    }
    let title = |i: usize| {
        escape(&format!(
            "token {i}: {}",
            prompt.tokens.get(i).map_or("", |t| &t.text)
        ))
    };
    for i in &p.watched {
        let middle = x(*i) + x(1) / 2.0;
        let _ = write!(
            out,
            "<path d=\"M{:.1} -14H{:.1}L{middle:.1} -2Z\" class=\"mark\"><title>{}</title></path>",
            middle - 6.0,
            middle + 6.0,
            title(*i)
        );
    }
    for (class, top, lists) in [
        ("tick", 29, p.layers.iter().map(|l| &l.visual).collect::<Vec<_>>()),
        ("seen", 39, p.layers.iter().map(|l| &l.attended).collect()),
    ] {
        let marked: std::collections::BTreeSet<usize> = lists.into_iter().flatten().copied().collect();
        // Ticks closer than they are wide are one.
        let mut last = -9.0;
        for i in marked {
            let middle = x(i) + x(1) / 2.0;
            if middle - last >= 1.2 {
                let _ = write!(
                    out,
                    "<path d=\"M{middle:.1} {top}v8\" class=\"{class}\"><title>{}</title></path>",
                    title(i)
                );
                last = middle;
            }
        }
    }
    key(&mut out, &p.kinds, width, 53.0);
    out + "</svg>"
}

/// Most sinks that the table lists.
const ROWS: usize = 40;

fn table(out: &mut String, prompt: &InspectedPrompt) {
    let p = &prompt.profile;
    out.push_str(
        "<h3>The sinks</h3><div class=\"scroll\"><table><tr><th>token</th><th>kind</th><th>text or place</th><th>sink in layers</th>\
        <th>mean attention</th><th>at most, in layer</th><th>by video</th><th>by sound</th><th>modality</th></tr>",
    );
    for position in p.watched.iter().take(ROWS) {
        let layers: Vec<usize> = p
            .sinks
            .iter()
            .filter(|(_, s)| s.contains(position))
            .map(|(l, _)| *l)
            .collect();
        let seen: Vec<_> = p
            .layers
            .iter()
            .filter_map(|l| Some((l.layer, l.seen.iter().find(|s| s.position == *position)?)))
            .collect();
        let n = seen.len().max(1) as f32;
        let mean =
            |f: &dyn Fn(&crate::probe::WatchedToken) -> f32| seen.iter().map(|(_, s)| f(s)).sum::<f32>() / n;
        let most = seen
            .iter()
            .fold((0.0, 0), |m, (l, s)| if s.mass > m.0 { (s.mass, *l) } else { m });
        let (video, audio) = (mean(&|s| s.video), mean(&|s| s.audio));
        let modality = if video + audio > 0.0 {
            short(f64::from((video - audio) / (video + audio)))
        } else {
            "-".into()
        };
        // Nobody of a kind that the prompt does not have can look.
        let by = |kind: Kind, mass: f32| {
            if p.kinds.contains(&kind) {
                short(f64::from(mass))
            } else {
                "-".into()
            }
        };
        let token = prompt.tokens.get(*position);
        let _ = write!(
            out,
            "<tr><td class=\"n\">{position}</td><td>{}</td><td><code>{}</code></td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{} in {}</td>\
            <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{modality}</td></tr>",
            token.map_or("", |t| t.kind.name()),
            escape(token.map_or("", |t| &t.text)),
            ranges(&layers),
            short(f64::from(mean(&|s| s.mass))),
            short(f64::from(most.0)),
            most.1,
            by(Kind::Video, video),
            by(Kind::Audio, audio),
        );
    }
    out.push_str(
        "</table></div><p class=\"soft\">Modality: (v - a) / (v + a), v and a the attention by video and by sound; 1 is a sink of the video, -1 of \
        the sound, - where neither looks.</p>",
    );
    if p.watched.len() > ROWS {
        let _ = write!(
            out,
            "<p class=\"soft\">... and {} more, in profile.json.</p>",
            p.watched.len() - ROWS
        );
    }
}

/// `3-5, 18-21`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let one = |run: &[usize]| match run {
        [only] => only.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_things() {
        assert_eq!(ranges(&[3, 4, 5, 9, 18, 19]), "3-5, 9, 18-19");
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|s| base64(s.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }

    #[test]
    fn a_thumbnail_is_the_frame() {
        let c = PatchConfig::default();
        let (height, width) = (56, 84);
        let data: Vec<u8> = (0..2 * height * width * 3).map(|i| (i % 251) as u8).collect();
        let frames = outro_media::Frames {
            count: 2,
            height,
            width,
            data: data.clone(),
        };
        let patches = outro_media::patches(&frames, &c).unwrap();
        let pixels = Pixels {
            whole: false,
            grid_thw: vec![patches.grid_thw],
            cols: patches.cols,
            data: patches.data,
        };
        let picture = thumbnail(&pixels, 0, 0, &c).unwrap();
        let want = outro_media::write_png(width, height, &data[..height * width * 3]).unwrap();
        assert_eq!(picture, format!("data:image/png;base64,{}", base64(&want)));
    }
}
