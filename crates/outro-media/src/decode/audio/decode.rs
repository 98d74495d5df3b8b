//! Decoders of sound, packet by packet.

use oxideav_aac::adts::ADTS_SAMPLE_RATES_HZ;
use oxideav_aac::asc::AudioSpecificConfig;
use oxideav_aac::decode::StreamDecoder;
use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::well_known as ids;
use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::packet::Packet;

use super::Packets;
use crate::sound::resample::resample;

/// Packets in which spectral band replication shows itself, if there is any.
const SETTLE: usize = 16;

/// AAC at or below this rate may be half of HE-AAC, without a word in its header.
const MAYBE_HALF: u32 = 24_000;

/// Interleaved samples, channels and rate.
type Block = (Vec<f32>, usize, u32);

pub(super) enum SoundDecoder {
    Aac(Box<Aac>),
    Other(Box<dyn AudioDecoder>),
}

/// AAC of every layout.
pub(super) struct Aac {
    decoder: StreamDecoder,
    /// Object type, index of the rate, rate, arrangement of channels.
    config: (u8, u8, u32, u8),
    /// A decoder as at the start.
    layout: Option<AudioSpecificConfig>,
    /// The rate of what comes out.
    rate: u32,
}

impl Aac {
    fn new(params: &AudioCodecParameters) -> Result<Self, String> {
        let Some(config) = &params.extra_data else {
            // A bare ADTS stream; its packets have no headers any more.
            let rate = params.sample_rate.unwrap_or(0);
            let index = ADTS_SAMPLE_RATES_HZ.iter().position(|r| *r == rate);
            let index = index.ok_or_else(|| format!("{rate} Hz"))? as u8;
            let channels = params.channels.as_ref().map_or(0, Channels::count);
            return Ok(Self {
                decoder: StreamDecoder::new(),
                config: (2, index, rate, if channels == 8 { 7 } else { channels as u8 }),
                layout: None,
                rate,
            });
        };
        let (c, _) = AudioSpecificConfig::parse(config).map_err(|e| format!("{e:?}"))?;
        // What is past the classic tools has another syntax.
        if c.aot > 6 {
            return Err(format!("AAC of object type {}", c.aot));
        }
        let mut aac = Self {
            decoder: StreamDecoder::new(),
            config: (
                c.aot,
                c.sampling_frequency_index,
                c.sample_rate,
                c.channel_configuration,
            ),
            rate: c.sample_rate,
            layout: Some(c),
        };
        aac.restart();
        Ok(aac)
    }

    fn restart(&mut self) {
        self.decoder = StreamDecoder::new();
        if let Some(c) = &self.layout {
            self.decoder
                .set_frame_family(c.ga_body.frame_length.family(c.aot));
            if let Some(pce) = &c.ga_body.pce {
                self.decoder.set_program_config(pce.clone());
            }
        }
    }

    fn decode(&mut self, data: &[u8]) -> Option<Block> {
        let (object, index, rate, arrangement) = self.config;
        let frame = self
            .decoder
            .decode_raw_data_block(object, index, rate, arrangement, 1, data)
            .ok()?;
        let pcm: Vec<f32> = frame.pcm.iter().map(|x| f32::from(*x) / 32768.0).collect();
        // Before the first data of the upper half there is the lower one alone.
        if frame.sample_rate < self.rate && frame.channels > 0 {
            let doubled: Vec<Vec<f32>> = (0..frame.channels)
                .map(|c| {
                    pcm.iter()
                        .skip(c)
                        .step_by(frame.channels)
                        .copied()
                        .collect::<Vec<f32>>()
                })
                .map(|channel| resample(&channel, frame.sample_rate, self.rate))
                .collect();
            let length = doubled.iter().map(Vec::len).min().unwrap_or(0);
            let pcm = (0..length)
                .flat_map(|i| doubled.iter().map(move |c| c[i]))
                .collect();
            return Some((pcm, frame.channels, self.rate));
        }
        Some((pcm, frame.channels, frame.sample_rate))
    }
}

impl SoundDecoder {
    pub(super) fn new(params: &AudioCodecParameters) -> Result<Self, String> {
        // The container's own rate may be that of what comes out.
        let own = params.extra_data.as_deref().and_then(of_aac);
        let low = own
            .map(|c| c.1)
            .or(params.sample_rate)
            .is_some_and(|r| r <= MAYBE_HALF);
        let plain = match params.codec {
            // Half of HE-AAC decodes as what it is not.
            ids::CODEC_ID_AAC if low => None,
            _ => Some(
                symphonia::default::get_codecs().make_audio_decoder(params, &AudioDecoderOptions::default()),
            ),
        };
        match (plain, params.codec) {
            (None | Some(Err(SymphoniaError::Unsupported(_))), ids::CODEC_ID_AAC) => {
                Ok(Self::Aac(Box::new(Aac::new(params)?)))
            }
            (None, _) => Err("unknown".into()),
            (Some(plain), _) => plain.map(Self::Other).map_err(|e| e.to_string()),
        }
    }

    /// Finds out what comes out of AAC whose header does not say it: decodes some packets and starts anew. `None` where
    /// that was not needed, and no packet was taken.
    pub(super) fn settle(&mut self, packets: &mut Packets) -> Result<Option<(usize, u32)>, String> {
        let Self::Aac(aac) = self else {
            return Ok(None);
        };
        let mut found = None;
        for _ in 0..SETTLE {
            let Ok(Some(packet)) = packets.next() else { break };
            if let Some((_, channels, rate)) = aac.decode(&packet.data).filter(|b| b.1 > 0) {
                found = Some((channels, rate));
            }
        }
        let (channels, rate) = found.ok_or("no packet of it can be decoded")?;
        aac.rate = rate;
        aac.restart();
        Ok(Some((channels, rate)))
    }

    /// The samples of a packet; `None` for a damaged one, which is left out.
    pub(super) fn decode(&mut self, packet: &Packet) -> Result<Option<Block>, String> {
        match self {
            Self::Aac(aac) => Ok(aac.decode(&packet.data)),
            Self::Other(decoder) => match decoder.decode(packet) {
                Ok(buffer) => {
                    let mut interleaved = vec![0f32; buffer.samples_interleaved()];
                    buffer.copy_to_slice_interleaved(&mut interleaved);
                    let spec = buffer.spec();
                    Ok(Some((interleaved, spec.channels().count(), spec.rate())))
                }
                Err(SymphoniaError::DecodeError(_)) => Ok(None),
                Err(e) => Err(e.to_string()),
            },
        }
    }
}

/// Channels and rate in the description of AAC.
pub(super) fn of_aac(config: &[u8]) -> Option<(usize, u32)> {
    let (c, _) = AudioSpecificConfig::parse(config).ok()?;
    Some((c.channel_count(), c.sample_rate)).filter(|(channels, rate)| *channels > 0 && *rate > 0)
}

/// Codecs by ffmpeg's names.
const CODECS: &[(&str, AudioCodecId)] = &[
    ("aac", ids::CODEC_ID_AAC),
    ("ac3", ids::CODEC_ID_AC3),
    ("alac", ids::CODEC_ID_ALAC),
    ("dts", ids::CODEC_ID_DCA),
    ("eac3", ids::CODEC_ID_EAC3),
    ("flac", ids::CODEC_ID_FLAC),
    ("mp1", ids::CODEC_ID_MP1),
    ("mp2", ids::CODEC_ID_MP2),
    ("mp3", ids::CODEC_ID_MP3),
    ("opus", ids::CODEC_ID_OPUS),
    ("speex", ids::CODEC_ID_SPEEX),
    ("truehd", ids::CODEC_ID_TRUEHD),
    ("vorbis", ids::CODEC_ID_VORBIS),
    ("wavpack", ids::CODEC_ID_WAVPACK),
    ("pcm_alaw", ids::CODEC_ID_PCM_ALAW),
    ("pcm_f32be", ids::CODEC_ID_PCM_F32BE),
    ("pcm_f32le", ids::CODEC_ID_PCM_F32LE),
    ("pcm_f64be", ids::CODEC_ID_PCM_F64BE),
    ("pcm_f64le", ids::CODEC_ID_PCM_F64LE),
    ("pcm_mulaw", ids::CODEC_ID_PCM_MULAW),
    ("pcm_s16be", ids::CODEC_ID_PCM_S16BE),
    ("pcm_s16le", ids::CODEC_ID_PCM_S16LE),
    ("pcm_s24be", ids::CODEC_ID_PCM_S24BE),
    ("pcm_s24le", ids::CODEC_ID_PCM_S24LE),
    ("pcm_s32be", ids::CODEC_ID_PCM_S32BE),
    ("pcm_s32le", ids::CODEC_ID_PCM_S32LE),
    ("pcm_s8", ids::CODEC_ID_PCM_S8),
    ("pcm_u8", ids::CODEC_ID_PCM_U8),
];

pub(super) fn codec_id(name: &str) -> Option<AudioCodecId> {
    CODECS.iter().find(|(n, _)| *n == name).map(|(_, id)| *id)
}

pub(super) fn codec_name(id: AudioCodecId) -> String {
    let known = CODECS
        .iter()
        .find(|(_, i)| *i == id)
        .map(|(name, _)| (*name).to_string());
    let by_library = || {
        let registered = symphonia::default::get_codecs().get_audio_decoder(id);
        registered.map(|c| c.codec.info.short_name.to_string())
    };
    known.or_else(by_library).unwrap_or_else(|| "unknown".into())
}
