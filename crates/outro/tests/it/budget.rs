//! The caller's most tokens of a video: fewer pixels first, then fewer frames.

use outro::prepare::{Preparer, VideoPlan};
use outro_media::VideoInfo;

const FAMILIES: [&str; 8] = [
    "qwen2.5-omni-7b",
    "qwen2.5-vl-7b",
    "qwen2-vl-7b",
    "qwen3-vl-8b",
    "qwen3-omni-30b-a3b",
    "videollama3-7b",
    "llava-onevision-7b",
    "video-salmonn2-7b",
];

fn video(height: usize, width: usize, seconds: usize) -> VideoInfo {
    VideoInfo {
        codec: String::new(),
        width,
        height,
        fps: 25.0,
        frames: 25 * seconds,
        duration: seconds as f64,
    }
}

/// Tokens of a frame step, by the numbers of the published towers.
fn tokens(preparer: &Preparer, plan: &VideoPlan) -> usize {
    let [t, h, w] = plan.grid;
    let v = preparer.config().vision.as_ref().unwrap();
    if v.anyres.is_some() {
        return t * h.div_ceil(2) * w.div_ceil(2) + 1;
    }
    t * (h / v.merge) * (w / v.merge)
}

#[test]
fn a_video_stays_within_the_limit_on_its_tokens() {
    let (mut lowered, mut refused) = (0, 0);
    for family in FAMILIES {
        let preparer = Preparer::published(family).unwrap();
        let temporal = preparer.config().vision.as_ref().unwrap().temporal;
        for (height, width, seconds) in [
            (360, 640, 30),
            (1080, 1920, 3),
            (64, 80, 10),
            (720, 1280, 600),
            (480, 200, 7000),
        ] {
            let info = video(height, width, seconds);
            let mut options = preparer.media_options();
            let whole = preparer.plan_video(&info, &options).unwrap();
            let all = tokens(&preparer, &whole);
            options.max_video_tokens = Some(all);
            assert_eq!(preparer.plan_video(&info, &options).unwrap(), whole, "{family}");
            let mut last = 0;
            for most in [50, 200, 1000, 4000, 9000, 20_000, 60_000] {
                options.max_video_tokens = Some(most);
                let here = format!("{family}, {height} x {width}, {seconds} s, {most}");
                let plan = match preparer.plan_video(&info, &options) {
                    Ok(plan) => plan,
                    Err(e) => {
                        let text = e.to_string();
                        assert!(text.contains("too few") && last == 0, "{here}: {text}");
                        refused += 1;
                        continue;
                    }
                };
                let made = tokens(&preparer, &plan);
                assert!(made <= most && made >= last, "{here}: {made} after {last}");
                last = made;
                assert!(plan.indices.is_sorted_by(|a, b| a < b), "{here}");
                assert!(
                    plan.size[0] * plan.size[1] <= whole.size[0] * whole.size[1],
                    "{here}"
                );
                assert_eq!(plan.grid[0], plan.indices.len().div_ceil(temporal), "{here}");
                assert_eq!(plan.seconds.len(), plan.grid[0], "{here}");
                if all <= most {
                    assert_eq!(plan, whole, "{here}");
                    continue;
                }
                lowered += 1;
                if plan.indices.len() < whole.indices.len() {
                    // The spread is that of as many frames, and fewer are taken only where a further step is too much.
                    assert_eq!(plan.indices.len() % temporal, 0, "{here}");
                    let mut asked = preparer.media_options();
                    asked.sampling.frames = Some(plan.indices.len());
                    let asked_for = preparer.plan_video(&info, &asked).unwrap();
                    assert_eq!(plan.indices, asked_for.indices, "{here}");
                    assert_eq!(
                        plan.second_per_grid.to_bits(),
                        asked_for.second_per_grid.to_bits()
                    );
                    assert!(made + 2 * made / plan.grid[0] > most, "{here}: {made} of {most}");
                } else {
                    assert!(plan.size != whole.size, "{here}");
                    assert!(
                        made * 3 / 2 > most || made * 2 > most && most < 200,
                        "{here}: {made}"
                    );
                }
            }
        }
    }
    assert!(lowered > 100 && refused > 10, "{lowered} {refused}");
}

#[test]
fn pixels_go_before_frames() {
    let preparer = Preparer::published("qwen2.5-omni-7b").unwrap();
    let (info, mut options) = (video(360, 640, 30), preparer.media_options());
    let at = |most| {
        options.max_video_tokens = Some(most);
        let plan = preparer.plan_video(&info, &options).unwrap();
        (plan.indices.len(), plan.size, tokens(&preparer, &plan))
    };
    let mut at = at;
    let whole = at(usize::MAX);
    assert_eq!((whole.0, whole.1, whole.2), (60, [364, 644], 8970));
    let half = at(4500);
    assert!(half.0 == 60 && half.1 < whole.1, "{half:?}");
    // Below the fewest pixels of the family (128 tokens of 28 x 28, which the second resize rounds up) there are fewer frames.
    let few = at(1000);
    assert!(few.0 < 60 && few.1[0] * few.1[1] <= 144 * 784, "{few:?}");
}
