//! Sound without anything installed: symphonia demuxes and decodes. AAC that it refuses (more than two channels,
//! HE-AAC) goes to a slower decoder that knows every layout.

use std::fs::File;
use std::path::Path;

use oxideav_aac::asc::AudioSpecificConfig;
use oxideav_aac::decode::StreamDecoder;
use symphonia::core::codecs::audio::well_known::CODEC_ID_AAC;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::MediaSourceStream;
use symphonia::core::meta::MetadataOptions;

use crate::audio::mono;
use crate::error::{Error, Result};
use crate::mp4::Movie;
use crate::source::AudioInfo;

/// Longest sound that is decoded: 6 hours at 48 kHz. Whatever is longer is a lying header or the wrong file.
const MAX_SAMPLES: usize = 6 * 3600 * 48_000;

pub(crate) fn open(path: &Path) -> Result<(Box<dyn FormatReader>, AudioInfo, u32)> {
    let file = File::open(path).map_err(Error::io(path))?;
    let size = file.metadata().map_err(Error::io(path))?.len();
    let bad = |e: SymphoniaError| Error::damaged(path, format!("cannot be read as sound: {e}"));
    let stream = MediaSourceStream::new(
        Box::new(file),
        symphonia::core::io::MediaSourceStreamOptions::default(),
    );
    let mut hint = Hint::new();
    if let Some(extension) = path.extension().and_then(|e| e.to_str()) {
        hint.with_extension(extension);
    }
    let probe = symphonia::default::get_probe();
    let reader = probe
        .probe(
            &hint,
            stream,
            FormatOptions::default(),
            MetadataOptions::default(),
        )
        .map_err(bad)?;
    let track = reader
        .default_track(TrackType::Audio)
        .ok_or_else(|| Error::NoStream {
            path: path.into(),
            what: "audio stream",
        })?;
    let params = track.codec_params.as_ref().and_then(|p| p.audio());
    let params = params.ok_or_else(|| Error::damaged(path, "its sound is of an unknown kind"))?;
    let codec = symphonia::default::get_codecs()
        .get_audio_decoder(params.codec)
        .map_or("unknown", |c| c.codec.info.short_name);
    let rate = params.sample_rate.unwrap_or(0);
    // A header may promise more than there is: uncompressed sound cannot be longer than its file.
    let bits = params
        .bits_per_coded_sample
        .or(params.bits_per_sample)
        .map_or(0, u64::from);
    let channels = params
        .channels
        .as_ref()
        .map_or(0, symphonia::core::audio::Channels::count);
    let most = match bits * channels as u64 {
        bits if bits > 0 && codec.starts_with("pcm") => size.saturating_mul(8) / bits,
        _ => u64::MAX,
    };
    let frames = track.num_frames.unwrap_or(0).min(most);
    let info = AudioInfo {
        codec: codec.into(),
        channels: params
            .channels
            .as_ref()
            .map_or(0, symphonia::core::audio::Channels::count),
        sample_rate: rate,
        duration: frames as f64 / f64::from(rate.max(1)),
    };
    let id = track.id;
    Ok((reader, info, id))
}

/// Hands mono samples at the file's own rate to `sink`, with the rate, as they are decoded and without the encoder's
/// delay.
pub(crate) fn read(path: &Path, sink: &mut dyn FnMut(&[f32], u32) -> Result<()>) -> Result<()> {
    let (mut reader, _, id) = open(path)?;
    let bad = |problem: String| Error::damaged(path, format!("its sound cannot be decoded: {problem}"));
    let track = reader.tracks().iter().find(|t| t.id == id);
    let params = track
        .and_then(|t| t.codec_params.as_ref())
        .and_then(|p| p.audio())
        .cloned();
    let params = params.ok_or_else(|| bad("it is of an unknown kind".into()))?;
    let mut decoder = SoundDecoder::new(&params).map_err(bad)?;
    // The demuxer of the sound library does not apply edit lists; a file that is no mp4 has none.
    let delay = Movie::open(path).map_or(0.0, |m| m.audio_delay());
    let (mut done, mut skipped, mut rate) = (0, 0, 0);
    loop {
        let packet = match reader.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            // What was decoded before a truncated end is as good as a shorter file.
            Err(_) if done > 0 => break,
            Err(e) => return Err(bad(e.to_string())),
        };
        if packet.track_id != id {
            continue;
        }
        let Some((interleaved, channels, this_rate)) = decoder.decode(&packet).map_err(bad)? else {
            continue;
        };
        if channels == 0 || this_rate == 0 || rate != 0 && rate != this_rate {
            return Err(bad(format!("it has {channels} channels at {this_rate} Hz")));
        }
        rate = this_rate;
        let samples = mono(&interleaved, channels);
        let skip = ((delay * f64::from(rate)).round() as usize)
            .saturating_sub(skipped)
            .min(samples.len());
        skipped += skip;
        sink(&samples[skip..], rate)?;
        done += samples.len();
        if done > MAX_SAMPLES {
            return Err(bad("it is longer than six hours".into()));
        }
    }
    if done == 0 {
        return Err(Error::damaged(path, "holds no decodable sound"));
    }
    Ok(())
}

enum SoundDecoder {
    Aac(Box<StreamDecoder>, Box<AudioSpecificConfig>),
    Other(Box<dyn AudioDecoder>),
}

impl SoundDecoder {
    fn new(params: &AudioCodecParameters) -> std::result::Result<Self, String> {
        let plain =
            symphonia::default::get_codecs().make_audio_decoder(params, &AudioDecoderOptions::default());
        // AAC without a configuration is a bare ADTS stream, and always plain.
        match (plain, params.codec, &params.extra_data) {
            (Err(SymphoniaError::Unsupported(_)), CODEC_ID_AAC, Some(config)) => {
                let (config, _) = AudioSpecificConfig::parse(config).map_err(|e| format!("{e:?}"))?;
                let mut decoder = StreamDecoder::new();
                if let Some(layout) = &config.ga_body.pce {
                    decoder.set_program_config(layout.clone());
                }
                Ok(Self::Aac(Box::new(decoder), Box::new(config)))
            }
            (plain, _, _) => plain.map(Self::Other).map_err(|e| e.to_string()),
        }
    }

    /// Interleaved samples, channels and rate of a packet; `None` for a damaged one, which is left out.
    fn decode(
        &mut self,
        packet: &symphonia::core::packet::Packet,
    ) -> std::result::Result<Option<(Vec<f32>, usize, u32)>, String> {
        match self {
            Self::Aac(decoder, c) => {
                let (index, rate) = (c.sampling_frequency_index, c.sample_rate);
                let frame = decoder.decode_raw_data_block(
                    c.aot,
                    index,
                    rate,
                    c.channel_configuration,
                    1,
                    &packet.data,
                );
                Ok(frame.ok().map(|f| {
                    (
                        f.pcm.iter().map(|x| f32::from(*x) / 32768.0).collect(),
                        f.channels,
                        f.sample_rate,
                    )
                }))
            }
            Self::Other(decoder) => match decoder.decode(packet) {
                Ok(buffer) => {
                    let mut interleaved = vec![0f32; buffer.samples_interleaved()];
                    buffer.copy_to_slice_interleaved(&mut interleaved);
                    Ok(Some((
                        interleaved,
                        buffer.spec().channels().count(),
                        buffer.spec().rate(),
                    )))
                }
                Err(SymphoniaError::DecodeError(_)) => Ok(None),
                Err(e) => Err(e.to_string()),
            },
        }
    }
}
