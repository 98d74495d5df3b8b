//! Frames of a scene, with antialiased outlines.

use outro_media::Frames;

use super::rng::sine;
use super::world::{Colour, Deed, Object, SIDE, Scene, Shape};

/// Frames at these times, in seconds.
pub(super) fn frames(scene: &Scene, times: impl Iterator<Item = f64>) -> Frames {
    let mut data = Vec::new();
    let mut count = 0;
    for time in times {
        let start = data.len();
        data.resize(start + SIDE * SIDE * 3, scene.background);
        for object in &scene.objects {
            draw(&mut data[start..], object, time);
        }
        count += 1;
    }
    Frames {
        count,
        height: SIDE,
        width: SIDE,
        data,
    }
}

fn rgb(colour: Colour) -> [f64; 3] {
    match colour {
        Colour::Red => [230.0, 40.0, 40.0],
        Colour::Green => [40.0, 190.0, 60.0],
        Colour::Blue => [50.0, 90.0, 240.0],
        Colour::Yellow => [240.0, 220.0, 40.0],
        Colour::White => [245.0, 245.0, 245.0],
        Colour::Purple => [190.0, 60.0, 220.0],
    }
}

fn draw(frame: &mut [u8], o: &Object, time: f64) {
    let gone = matches!(o.deed, Deed::Leaves { at } if time >= at);
    if time < o.enters || gone {
        return;
    }
    let colour = match o.deed {
        Deed::Changes { at, to } if time >= at => to,
        _ => o.colour,
    };
    let (paint, r) = (rgb(colour), o.radius());
    let way = ((time - o.enters) / 0.8).min(1.0);
    let along = |a: f64, b: f64| a + (b - a) * way;
    let (cx, cy) = (along(o.path[0].0, o.path[1].0), along(o.path[0].1, o.path[1].1));
    let corners = corners(o.shape, r);
    let clamp = |x: f64| x.clamp(0.0, SIDE as f64) as usize;
    for y in clamp(cy - r - 1.0)..clamp(cy + r + 2.0) {
        for x in clamp(cx - r - 1.0)..clamp(cx + r + 2.0) {
            let (px, py) = (x as f64 + 0.5 - cx, y as f64 + 0.5 - cy);
            let outside = if corners.is_empty() {
                (px * px + py * py).sqrt() - r
            } else {
                distance(&corners, px, py)
            };
            let cover = (0.5 - outside).clamp(0.0, 1.0);
            for (byte, paint) in frame[(y * SIDE + x) * 3..][..3].iter_mut().zip(paint) {
                *byte = (f64::from(*byte) * (1.0 - cover) + paint * cover).round() as u8;
            }
        }
    }
}

/// Corners around the origin; none for a circle.
fn corners(shape: Shape, r: f64) -> Vec<(f64, f64)> {
    let ring = |n: usize, turn: f64, radius: &dyn Fn(usize) -> f64| -> Vec<(f64, f64)> {
        let at = |i: usize| i as f64 / n as f64 + turn;
        (0..n)
            .map(|i| (sine(at(i) + 0.25) * radius(i), sine(at(i)) * radius(i)))
            .collect()
    };
    match shape {
        Shape::Circle => Vec::new(),
        Shape::Square => ring(4, 0.125, &|_| r * 1.15),
        Shape::Triangle => ring(3, -0.25, &|_| r * 1.15),
        Shape::Star => ring(10, -0.25, &|i| if i % 2 == 0 { r * 1.15 } else { r * 0.48 }),
    }
}

/// Distance to a polygon's outline, negative inside.
fn distance(corners: &[(f64, f64)], x: f64, y: f64) -> f64 {
    let (mut nearest, mut inside) = (f64::INFINITY, false);
    let after = corners.iter().cycle().skip(1);
    for ((ax, ay), (bx, by)) in corners.iter().zip(after) {
        let (ex, ey, wx, wy) = (bx - ax, by - ay, x - ax, y - ay);
        let t = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        let (dx, dy) = (wx - ex * t, wy - ey * t);
        nearest = nearest.min(dx * dx + dy * dy);
        if (*ay > y) != (*by > y) && x < ax + (y - ay) / ey * ex {
            inside = !inside;
        }
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}
