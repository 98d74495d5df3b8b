//! What H.264 says of its pictures before any is decoded: sequence parameter sets (ITU-T H.264, 7.3.2.1.1 and E.1.1).

/// Types of NAL units that matter here.
pub(crate) const IDR: u8 = 5;
pub(crate) const SPS: u8 = 7;

/// What a NAL unit is.
pub(crate) fn unit_type(unit: &[u8]) -> u8 {
    unit.first().map_or(0, |b| b & 31)
}

/// The facts of a sequence parameter set that decide whether and how its pictures can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sps {
    /// `profile_idc`.
    pub(crate) profile: u8,
    /// `chroma_format_idc`: 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub(crate) chroma: u32,
    /// Bits of a sample, the larger of luma and chroma.
    pub(crate) bits: u32,
    /// Whether pictures may be fields.
    pub(crate) interlaced: bool,
    /// Columns and rows that are shown.
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Whether columns are cut off on the left: ffmpeg then shows some of them, as suits its memory.
    pub(crate) cut_left: bool,
    /// Range and matrix, where the set says them.
    pub(crate) full_range: Option<bool>,
    pub(crate) matrix: Option<u8>,
}

/// Profiles of 8 bits and 4:2:0 or less that the built-in decoder knows: baseline, main, high.
const PROFILES: [u8; 3] = [66, 77, 100];

impl Sps {
    /// Reads a unit with its header byte; `None` for one that is damaged.
    pub(crate) fn parse(unit: &[u8]) -> Option<Self> {
        let bytes = without_emulation(unit.get(1..)?);
        let mut r = Bits { bytes: &bytes, at: 0 };
        let profile = r.bits(8)? as u8;
        r.bits(16)?;
        r.ue()?;
        let (mut chroma, mut bits, mut separate) = (1, 8, false);
        if [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135].contains(&profile) {
            chroma = r.ue()?;
            separate = chroma == 3 && r.flag()?;
            bits = r.ue()?.max(r.ue()?).checked_add(8)?;
            r.flag()?;
            if r.flag()? {
                for i in 0..if chroma == 3 { 12 } else { 8 } {
                    if r.flag()? {
                        r.scaling_list(if i < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        r.ue()?;
        match r.ue()? {
            0 => {
                r.ue()?;
            }
            1 => {
                r.flag()?;
                r.ue()?;
                r.ue()?;
                for _ in 0..r.ue()?.min(256) {
                    r.ue()?;
                }
            }
            _ => {}
        }
        r.ue()?;
        r.flag()?;
        let (columns, rows) = (r.ue()?.checked_add(1)?, r.ue()?.checked_add(1)?);
        let interlaced = !r.flag()?;
        if interlaced {
            r.flag()?;
        }
        r.flag()?;
        let mut crop = [0; 4];
        if r.flag()? {
            for side in &mut crop {
                *side = r.ue()?;
            }
        }
        let fields = 1 + u32::from(interlaced);
        let (unit_x, unit_y) = match chroma {
            1 if !separate => (2, 2 * fields),
            2 if !separate => (2, fields),
            _ => (1, fields),
        };
        let side = |blocks: u32, fields: u32, crop: [u32; 2], unit: u32| {
            let cut = crop[0].checked_add(crop[1])?.checked_mul(unit)?;
            let whole = blocks.checked_mul(16)?.checked_mul(fields)?;
            whole.checked_sub(cut).filter(|n| (1..=65_536).contains(n))
        };
        let width = side(columns, 1, [crop[0], crop[1]], unit_x)? as usize;
        let height = side(rows, fields, [crop[2], crop[3]], unit_y)? as usize;
        // A set that ends inside its usability information is used without it.
        let (full_range, matrix) = r.colours().unwrap_or_default();
        Some(Self {
            profile,
            chroma,
            bits,
            interlaced,
            width,
            height,
            cut_left: crop[0] > 0,
            full_range,
            matrix,
        })
    }

    /// What of it the built-in decoder cannot show, by its name.
    pub(crate) fn beyond(&self) -> Option<String> {
        if self.bits > 8 {
            return Some(format!("H.264 video of {} bits", self.bits));
        }
        match self.chroma {
            0 => return Some("monochrome H.264 video".into()),
            1 => {}
            2 => return Some("H.264 video with 4:2:2 chroma".into()),
            _ => return Some("H.264 video with 4:4:4 chroma".into()),
        }
        if self.interlaced {
            return Some("interlaced H.264 video".into());
        }
        if self.cut_left {
            return Some("H.264 video that is cropped on the left".into());
        }
        (!PROFILES.contains(&self.profile)).then(|| format!("H.264 video of profile {}", self.profile))
    }
}

/// Bytes of a unit without the 3 that keeps start codes out of it.
fn without_emulation(unit: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(unit.len());
    let mut zeros = 0;
    for &b in unit {
        if zeros >= 2 && b == 3 {
            zeros = 0;
            continue;
        }
        zeros = if b == 0 { zeros + 1 } else { 0 };
        out.push(b);
    }
    out
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        self.at += 1;
        Some(byte >> (7 - (self.at - 1) % 8) & 1 == 1)
    }

    fn bits(&mut self, n: u32) -> Option<u32> {
        (0..n).try_fold(0u32, |v, _| Some(v << 1 | u32::from(self.flag()?)))
    }

    /// Exponential-Golomb code.
    fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.bits(zeros)?;
        Some((1u32 << zeros) - 1 + rest)
    }

    fn se(&mut self) -> Option<i32> {
        let code = i64::from(self.ue()?);
        i32::try_from(if code % 2 == 1 { (code + 1) / 2 } else { -code / 2 }).ok()
    }

    fn scaling_list(&mut self, size: usize) -> Option<()> {
        let (mut last, mut next) = (8i32, 8i32);
        for _ in 0..size {
            if next != 0 {
                next = (last.checked_add(self.se()?)?).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
        Some(())
    }

    /// Range and matrix of the usability information, which is next.
    fn colours(&mut self) -> Option<(Option<bool>, Option<u8>)> {
        if !self.flag()? {
            return Some((None, None));
        }
        if self.flag()? && self.bits(8)? == 255 {
            self.bits(32)?;
        }
        if self.flag()? {
            self.flag()?;
        }
        if !self.flag()? {
            return Some((None, None));
        }
        self.bits(3)?;
        let full = self.flag()?;
        let matrix = if self.flag()? {
            self.bits(16)?;
            Some(self.bits(8)? as u8)
        } else {
            None
        };
        Some((Some(full), matrix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes what [`Bits`] reads.
    #[derive(Default)]
    struct Write(Vec<bool>);

    impl Write {
        fn bits(&mut self, n: u32, value: u32) -> &mut Self {
            self.0.extend((0..n).rev().map(|i| value >> i & 1 == 1));
            self
        }

        fn ue(&mut self, value: u32) -> &mut Self {
            let length = 32 - (value + 1).leading_zeros();
            self.bits(length - 1, 0).bits(length, value + 1)
        }

        fn unit(&mut self) -> Vec<u8> {
            self.bits(1, 1);
            let mut out = vec![0x67];
            for byte in self.0.chunks(8) {
                let byte = byte
                    .iter()
                    .enumerate()
                    .fold(0u8, |v, (i, b)| v | u8::from(*b) << (7 - i));
                if out.ends_with(&[0, 0]) && byte <= 3 {
                    out.push(3);
                }
                out.push(byte);
            }
            out
        }
    }

    /// A set of 10 x 8 blocks, cropped by 8 rows below.
    fn set(profile: u32, chroma: u32, bits: u32, frames_only: bool, colours: Option<(bool, u32)>) -> Vec<u8> {
        let mut w = Write::default();
        w.bits(8, profile).bits(16, 0x001E).ue(0);
        if profile >= 100 {
            w.ue(chroma);
            if chroma == 3 {
                w.bits(1, 0);
            }
            w.ue(bits - 8).ue(bits - 8).bits(1, 0);
            // One scaling list of 16, all differences zero.
            w.bits(1, 1).bits(1, 1);
            (0..16).for_each(|_| {
                w.ue(0);
            });
            w.bits(if chroma == 3 { 11 } else { 7 }, 0);
        }
        w.ue(0).ue(0).ue(0).ue(1).bits(1, 0);
        w.ue(9).ue(7).bits(1, u32::from(frames_only));
        if !frames_only {
            w.bits(1, 1);
        }
        w.bits(1, 1).bits(1, 1).ue(0).ue(0).ue(0).ue(4);
        match colours {
            None => w.bits(1, 0),
            Some((full, matrix)) => {
                w.bits(1, 1).bits(1, 1).bits(8, 255).bits(32, 0x0001_0001);
                w.bits(1, 0).bits(1, 1).bits(3, 5).bits(1, u32::from(full));
                w.bits(1, 1).bits(16, 0x0101).bits(8, matrix)
            }
        };
        w.unit()
    }

    #[test]
    fn facts_are_read() {
        let plain = Sps::parse(&set(77, 1, 8, true, None)).unwrap();
        assert_eq!((plain.width, plain.height, plain.bits), (160, 120, 8));
        assert_eq!(
            (plain.full_range, plain.matrix, plain.beyond()),
            (None, None, None)
        );
        let tagged = Sps::parse(&set(100, 1, 8, true, Some((true, 1)))).unwrap();
        assert_eq!((tagged.full_range, tagged.matrix), (Some(true), Some(1)));
        assert_eq!(tagged.beyond(), None);
    }

    #[test]
    fn limits_have_names() {
        for (profile, chroma, bits, frames_only, name) in [
            (110, 1, 10, true, "10 bits"),
            (100, 0, 8, true, "monochrome"),
            (122, 2, 8, true, "4:2:2"),
            (244, 3, 8, true, "4:4:4"),
            (100, 1, 8, false, "interlaced"),
            (88, 1, 8, true, "profile 88"),
        ] {
            let sps = Sps::parse(&set(profile, chroma, bits, frames_only, None)).unwrap();
            assert!(sps.beyond().unwrap().contains(name), "{sps:?}");
        }
    }

    #[test]
    fn damaged_sets_are_none_or_harmless() {
        let whole = set(100, 1, 8, true, Some((true, 1)));
        for n in 0..whole.len() {
            let _ = Sps::parse(&whole[..n]);
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[n] ^= 1 << bit;
                let _ = Sps::parse(&changed);
            }
        }
        assert_eq!(Sps::parse(&[0x67]), None);
        assert_eq!(Sps::parse(&[0x67, 100, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
