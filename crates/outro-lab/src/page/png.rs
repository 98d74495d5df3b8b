//! A figure as a picture file: its SVG with a title, a caption and the light colours, drawn with a font that the program
//! carries, so that it looks the same everywhere.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::Database;
use resvg::usvg::{Options, Tree};

use super::Figure;
use super::svg::escape;
use crate::error::{Error, Result};

/// Pixels for a unit of a figure: at two, the text of half a page's width is sharp.
const SCALE: f32 = 2.0;
const MARGIN: f64 = 12.0;
/// Narrow figures (frames) are drawn this wide at least.
const LEAST: f64 = 320.0;

/// The page's rules for what is inside figures, variables replaced by the light theme's values; drawing programs know
/// neither variables nor themes.
fn style() -> String {
    let css = include_str!("style.css");
    let theme = css.split(['{', '}']).nth(1).unwrap_or_default();
    let rules = css.split("\n.t {").nth(1).unwrap_or_default();
    let mut out = format!(".t {{{rules}");
    for rule in theme.split(';') {
        if let Some((name, value)) = rule.split_once(':')
            && name.trim().starts_with("--")
        {
            out = out.replace(&format!("var({})", name.trim()), value.trim());
        }
    }
    out
}

fn options() -> &'static Options<'static> {
    static OPTIONS: OnceLock<Options> = OnceLock::new();
    OPTIONS.get_or_init(|| {
        let mut fonts = Database::new();
        fonts.load_font_data(dejavu::sans::regular().to_vec());
        fonts.set_sans_serif_family("DejaVu Sans");
        Options {
            font_family: "DejaVu Sans".into(),
            fontdb: Arc::new(fonts),
            ..Options::default()
        }
    })
}

/// `text` in lines of at most so many characters.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let wide = lines[last].chars().count() + word.chars().count();
        if !lines[last].is_empty() && wide >= most {
            lines.push(word.to_owned());
        } else {
            let space = if lines[last].is_empty() { "" } else { " " };
            lines[last] += space;
            lines[last] += word;
        }
    }
    lines
}

impl Figure {
    /// The figure as SVG that needs no page: title, picture, caption.
    fn alone(&self) -> Option<(String, f64, f64)> {
        let view = self.svg.split('"').nth(1)?;
        let view: Vec<f64> = view.split(' ').filter_map(|x| x.parse().ok()).collect();
        let [_, _, w, h] = view[..] else { return None };
        let wide = w.max(LEAST);
        let picture = self.svg.replacen(
            "<svg ",
            &format!(
                "<svg x=\"{MARGIN}\" y=\"34\" width=\"{wide}\" height=\"{}\" ",
                h * wide / w
            ),
            1,
        );
        let caption = wrapped(&self.caption, (wide / 6.8) as usize);
        let below = 34.0 + h * wide / w;
        let (width, height) = (wide + 2.0 * MARGIN, below + 17.0 * caption.len() as f64 + MARGIN);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\"><style>{}</style>\
            <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\
            <text x=\"{MARGIN}\" y=\"23\" font-size=\"14\" font-family=\"sans-serif\" fill=\"#1b1f24\">{}</text>{picture}",
            style(),
            escape(&self.title)
        );
        for (i, line) in caption.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(
                out,
                "<text x=\"{MARGIN}\" y=\"{}\" class=\"t\">{}</text>",
                below + 17.0 * (i as f64 + 1.0),
                escape(line)
            );
        }
        Some((out + "</svg>", width, height))
    }

    /// A PNG of twice the figure's size.
    ///
    /// # Errors
    /// A figure that cannot be drawn.
    pub fn png(&self) -> Result<Vec<u8>> {
        let fault = |problem: &str| Error::setting("figure", format!("{}: {problem}", self.name));
        let (svg, width, height) = self.alone().ok_or_else(|| fault("has no size"))?;
        let tree = Tree::from_str(&svg, options()).map_err(|e| fault(&e.to_string()))?;
        let pixels = |x: f64| (x as f32 * SCALE).ceil() as u32;
        let mut map = Pixmap::new(pixels(width), pixels(height)).ok_or_else(|| fault("is too large"))?;
        resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut map.as_mut());
        // The background is opaque, so colours are not multiplied by anything.
        let rgb: Vec<u8> = map
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|p| [p[0], p[1], p[2]])
            .collect();
        outro_media::write_png(map.width() as usize, map.height() as usize, &rgb)
            .map_err(|e| fault(&e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_the_colours_and_words_of_its_figure() {
        let figure = |caption: &str, class: &str| Figure {
            name: "x".into(),
            title: "Title".into(),
            svg: format!(
                "<svg viewBox=\"0 0 400 100\"><rect width=\"400\" height=\"100\" class=\"{class}\"/></svg>"
            ),
            caption: caption.into(),
        };
        let draw = |f: &Figure| {
            let picture = image_of(&f.png().unwrap());
            assert_eq!(picture.0, 848);
            picture
        };
        let (width, _, rgb) = draw(&figure("Words", "k-video"));
        let at = |x: usize, y: usize| &rgb[(y * width + x) * 3..][..3];
        assert_eq!(
            at(400, 150),
            [0x00, 0x72, 0xb2],
            "the light theme's colour of video"
        );
        assert_eq!(at(2, 2), [255, 255, 255]);
        let dark = |rgb: &[u8]| rgb.chunks(3).filter(|p| p.iter().all(|c| *c < 0xa0)).count();
        let bare = Figure {
            title: String::new(),
            ..figure("", "none")
        };
        assert_eq!(dark(&draw(&bare).2), 0);
        assert!(dark(&draw(&figure("Words", "none")).2) > 200, "letters are drawn");
        let tall = draw(&figure(&"many words ".repeat(40), "none")).1;
        assert!(tall > draw(&bare).1 + 100, "captions wrap");
        assert!(!style().contains("var("), "{}", style());
    }

    fn image_of(png: &[u8]) -> (usize, usize, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.png");
        std::fs::write(&path, png).unwrap();
        let frames = outro_media::read_image(&path, &outro_media::Options::default()).unwrap();
        (frames.width, frames.height, frames.data)
    }
}
