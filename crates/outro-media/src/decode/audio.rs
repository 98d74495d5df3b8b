//! Sound without anything installed: symphonia decodes, and demuxes what is neither mp4 nor WAVE. AAC that it refuses (more
//! than two channels, HE-AAC) goes to a slower decoder that knows every layout.

mod decode;
mod matroska;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::video::well_known as video_codecs;
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, Track};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, Timestamp};

use crate::decode::mp4::{self, Movie, Sample, SoundEntry};
use crate::decode::sniff::{Sniffed, sniff};
use crate::decode::wave::Wave;
use crate::error::{Error, Result};
use crate::info::{AudioInfo, Decoder, Kind, MediaInfo, Streams, VideoInfo};
use crate::note::{Note, NoteKind};
use crate::sound::resample::mono;
use decode::{SoundDecoder, codec_id, codec_name, of_aac};

/// Longest sound that is decoded: 6 hours at 48 kHz. Whatever is longer is a lying header or the wrong file.
const MAX_SAMPLES: usize = 6 * 3600 * 48_000;

/// Largest packet of sound that is believed: some seconds of eight channels without compression.
const MAX_PACKET: u32 = 64 << 20;

/// Sound that can be decoded.
struct Stream {
    info: AudioInfo,
    packets: Packets,
    decoder: SoundDecoder,
    /// Seconds before what is heard.
    skip: f64,
    notes: Vec<Note>,
}

/// Where packets come from.
enum Packets {
    Movie {
        file: File,
        samples: std::vec::IntoIter<Sample>,
    },
    Wave(Box<Wave>),
    Reader(Box<dyn FormatReader>, u32),
}

/// What was found in a file.
enum Found {
    Stream(Box<Stream>),
    /// Sound of a kind that is not decoded here.
    Unknown(AudioInfo),
    Nothing,
}

impl Packets {
    /// The next packet of the track, `None` at the end; the error is a reason why there are no more.
    fn next(&mut self) -> std::result::Result<Option<Packet>, String> {
        let packet = |data: Vec<u8>| Packet::new(0, Timestamp::ZERO, Duration::ZERO, data);
        match self {
            Self::Movie { file, samples } => {
                let Some(sample) = samples.next() else {
                    return Ok(None);
                };
                if sample.size > MAX_PACKET {
                    return Err("a packet claims more than 64 MiB".into());
                }
                let mut data = vec![0; sample.size as usize];
                file.seek(SeekFrom::Start(sample.offset))
                    .and_then(|_| file.read_exact(&mut data))
                    .map_err(|e| e.to_string())?;
                Ok(Some(packet(data)))
            }
            Self::Wave(wave) => Ok(wave.next().map_err(|e| e.to_string())?.map(packet)),
            Self::Reader(reader, id) => loop {
                match reader.next_packet() {
                    Ok(Some(packet)) if packet.track_id == *id => return Ok(Some(packet)),
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(None),
                    Err(SymphoniaError::ResetRequired) => {
                        return Err("another stream begins, with other settings".into());
                    }
                    Err(e) => return Err(e.to_string()),
                }
            },
        }
    }
}

/// A file of sound, or the sound of a Matroska file.
pub(crate) fn probe(path: &Path) -> Result<MediaInfo> {
    let mut info = MediaInfo {
        path: path.into(),
        kind: Kind::Audio,
        container: "audio".into(),
        video: None,
        audio: None,
        decoder: Decoder::Builtin,
        notes: Vec::new(),
        streams: Streams::default(),
    };
    if sniff(path)? == Sniffed::Matroska {
        info.container = "matroska".into();
        info.video = pictures(path)?;
        if info.video.is_some() {
            info.kind = Kind::Video;
        }
    }
    match find(path)? {
        Found::Stream(stream) => {
            info.audio = Some(stream.info);
            info.notes = stream.notes;
        }
        Found::Unknown(audio) => info.audio = Some(audio),
        Found::Nothing if info.video.is_none() => {
            return Err(Error::NoStream {
                path: path.into(),
                what: "audio stream",
            });
        }
        Found::Nothing => {}
    }
    Ok(info)
}

/// What is known of a movie's sound.
pub(crate) fn of_movie(path: &Path, movie: &Movie) -> (Option<AudioInfo>, Vec<Note>) {
    match in_movie(path, movie) {
        Found::Stream(stream) => (Some(stream.info), stream.notes),
        Found::Unknown(info) => (Some(info), Vec::new()),
        Found::Nothing => (None, Vec::new()),
    }
}

fn find(path: &Path) -> Result<Found> {
    match sniff(path)? {
        Sniffed::Mp4 => Ok(in_movie(path, &Movie::open(path)?)),
        Sniffed::Audio => match Wave::open(path)? {
            Some(wave) => Ok(in_wave(path, wave)),
            None => in_reader(path, reader(path)?),
        },
        _ => in_reader(path, reader(path)?),
    }
}

fn parameters(
    codec: &str,
    channels: usize,
    rate: u32,
    config: Option<Vec<u8>>,
) -> Option<AudioCodecParameters> {
    let mut p = AudioCodecParameters::new();
    p.for_codec(codec_id(codec)?).with_sample_rate(rate);
    let channels = u16::try_from(channels).ok().filter(|n| (1..=64).contains(n))?;
    p.with_channels(Channels::Discrete(channels));
    if let Some(config) = config {
        p.with_extra_data(config.into());
    }
    Some(p)
}

fn in_wave(path: &Path, wave: Wave) -> Found {
    let channels = usize::from(wave.channels);
    let info = AudioInfo {
        codec: wave.codec.into(),
        channels,
        sample_rate: wave.rate,
        duration: wave.duration(),
    };
    let mut notes = Vec::new();
    if wave.lies {
        let text = format!(
            "its header promises another length than there is; the {:.2} s that are there are used",
            info.duration
        );
        notes.push(Note::new(NoteKind::Header, path, text));
    }
    let decoder = parameters(wave.codec, channels, wave.rate, None).map(|p| SoundDecoder::new(&p));
    let Some(Ok(decoder)) = decoder else {
        return Found::Unknown(info);
    };
    Found::Stream(Box::new(Stream {
        info,
        packets: Packets::Wave(Box::new(wave)),
        decoder,
        skip: 0.0,
        notes,
    }))
}

/// The first of a file's sound tracks that can be decoded, in the order in which ffmpeg takes them, with notes on those
/// that were passed over.
fn first_of<T>(
    path: &Path,
    tracks: &[T],
    name: impl Fn(&T) -> AudioInfo,
    mut open: impl FnMut(&T) -> std::result::Result<Stream, String>,
) -> Found {
    let all = tracks.len();
    let mut notes = Vec::new();
    for track in tracks {
        match open(track) {
            Ok(mut stream) => {
                if all > 1 && notes.is_empty() {
                    let text = format!(
                        "it has {all} sound tracks; the one that is played by default is used ({}, {} Hz)",
                        stream.info.codec, stream.info.sample_rate
                    );
                    notes.push(Note::new(NoteKind::TrackTaken, path, text));
                }
                stream.notes.extend(notes);
                return Found::Stream(Box::new(stream));
            }
            Err(why) => {
                let text = format!("its sound track in {} was passed over: {why}", name(track).codec);
                notes.push(Note::new(NoteKind::TrackLeftOut, path, text));
            }
        }
    }
    tracks.first().map_or(Found::Nothing, |t| Found::Unknown(name(t)))
}

fn in_movie(path: &Path, movie: &Movie) -> Found {
    let info = |(track, entry): &(&mp4::Track, SoundEntry)| {
        let ticks: f64 = track.samples.iter().map(|s| f64::from(s.ticks)).sum();
        // The description of AAC knows better than the container.
        let own = entry.config.as_ref().filter(|_| entry.codec == "aac");
        let (channels, rate) = own
            .and_then(|c| of_aac(c))
            .unwrap_or((entry.channels, entry.rate));
        AudioInfo {
            codec: entry.codec.clone(),
            channels,
            sample_rate: rate,
            duration: ticks / f64::from(track.timescale),
        }
    };
    let file = || File::open(path).map_err(|e| e.to_string());
    let open = |pair: &(&mp4::Track, SoundEntry)| {
        let (track, entry) = pair;
        if track.samples.iter().any(|s| s.entry != 0) {
            return Err("it changes its codec".into());
        }
        let presentation = movie
            .presentation(track)
            .map_err(|what| format!("it has {what}, which needs ffmpeg"))?;
        // A packet that begins inside what is heard is heard whole, as ffmpeg does.
        let samples: Vec<Sample> = track
            .samples
            .iter()
            .filter(|s| s.pts < presentation.end)
            .copied()
            .collect();
        let scale = f64::from(track.timescale);
        let skip = if presentation.start == i64::MIN {
            0.0
        } else {
            presentation.start as f64 / scale
        };
        let unknown = || format!("{} needs ffmpeg", entry.codec);
        let params = parameters(&entry.codec, entry.channels, entry.rate, entry.config.clone());
        let mut decoder = SoundDecoder::new(&params.ok_or_else(unknown)?).map_err(|_| unknown())?;
        let mut info = info(pair);
        let ticks: f64 = samples.iter().map(|s| f64::from(s.ticks)).sum();
        info.duration = (ticks / scale - skip).max(0.0);
        let mut packets = Packets::Movie {
            file: file()?,
            samples: samples.clone().into_iter(),
        };
        if let Some((channels, rate)) = decoder.settle(&mut packets)? {
            (info.channels, info.sample_rate) = (channels, rate);
        }
        let notes = Note::late(path, movie.lateness(track)).into_iter().collect();
        Ok(Stream {
            info,
            packets: Packets::Movie {
                file: file()?,
                samples: samples.into_iter(),
            },
            decoder,
            skip,
            notes,
        })
    };
    first_of(path, &movie.sounds(), info, open)
}

fn reader(path: &Path) -> Result<Box<dyn FormatReader>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let stream = MediaSourceStream::new(Box::new(file), MediaSourceStreamOptions::default());
    let mut hint = Hint::new();
    if let Some(extension) = path.extension().and_then(|e| e.to_str()) {
        hint.with_extension(extension);
    }
    symphonia::default::get_probe()
        .probe(
            &hint,
            stream,
            FormatOptions::default(),
            MetadataOptions::default(),
        )
        .map_err(|e| match sniff(path) {
            Ok(Sniffed::Matroska) => {
                let reason = format!("the built-in decoder cannot read it ({e})");
                Error::needs_ffmpeg(path, "this Matroska or WebM file", reason)
            }
            _ => Error::damaged(path, format!("cannot be read as sound: {e}")),
        })
}

fn in_reader(path: &Path, first: Box<dyn FormatReader>) -> Result<Found> {
    let sound = |t: &Track| t.codec_params.as_ref().and_then(|p| p.audio()).cloned();
    let channels = |p: &AudioCodecParameters| p.channels.as_ref().map_or(0, Channels::count);
    let mut tracks: Vec<(Track, AudioCodecParameters)> = first
        .tracks()
        .iter()
        .filter_map(|t| Some((t.clone(), sound(t)?)))
        .collect();
    let off = if sniff(path)? == Sniffed::Matroska {
        matroska::not_default(path)
    } else {
        Vec::new()
    };
    tracks.sort_by_key(|(t, p)| std::cmp::Reverse((!off.contains(&t.id), channels(p))));
    let info = |(t, p): &(Track, AudioCodecParameters)| AudioInfo {
        codec: codec_name(p.codec),
        channels: channels(p),
        sample_rate: p.sample_rate.unwrap_or(0),
        duration: lasts(t, p),
    };
    let mut first = Some(first);
    let open = |pair: &(Track, AudioCodecParameters)| {
        let (track, params) = pair;
        let mut info = info(pair);
        let mut decoder = SoundDecoder::new(params).map_err(|_| format!("{} needs ffmpeg", info.codec))?;
        let again = || reader(path).map_err(|e| e.to_string());
        let mut packets = Packets::Reader(first.take().map_or_else(again, Ok)?, track.id);
        // What the header does not know is counted: nothing is decoded for it.
        if info.duration <= 0.0 {
            let (mut ticks, mut count, mut span) = (0u64, 0u64, None::<(i64, i64)>);
            while let Ok(Some(packet)) = packets.next() {
                ticks = ticks.saturating_add(packet.dur.get());
                count += 1;
                let at = packet.pts.get();
                span = Some(span.map_or((at, at), |(a, b)| (a.min(at), b.max(at))));
            }
            // Packets of Matroska need not say how long they last.
            if let (0, Some((first, last))) = (ticks, span.filter(|_| count > 1)) {
                let steps = u64::try_from(last.saturating_sub(first)).unwrap_or(0);
                ticks = (u128::from(steps) * u128::from(count) / u128::from(count - 1)) as u64;
            }
            info.duration = seconds(track, ticks);
            packets = Packets::Reader(again()?, track.id);
        }
        if let Some((channels, rate)) = decoder.settle(&mut packets)? {
            (info.channels, info.sample_rate) = (channels, rate);
            packets = Packets::Reader(again()?, track.id);
        }
        Ok(Stream {
            info,
            packets,
            decoder,
            skip: 0.0,
            notes: Vec::new(),
        })
    };
    Ok(first_of(path, &tracks, info, open))
}

/// Seconds of so many ticks.
fn seconds(track: &Track, ticks: u64) -> f64 {
    track.time_base.map_or(0.0, |base| {
        ticks as f64 * f64::from(base.numer.get()) / f64::from(base.denom.get())
    })
}

/// Seconds that a track's header promises; 0 where it promises nothing.
fn lasts(track: &Track, params: &AudioCodecParameters) -> f64 {
    match (track.num_frames, params.sample_rate) {
        (Some(frames), Some(rate)) if rate > 0 => frames as f64 / f64::from(rate),
        _ => track.duration.map_or(0.0, |d| seconds(track, d.get())),
    }
}

/// The pictures of a Matroska file, counted: they are not decoded here, and whoever asks for them is told.
fn pictures(path: &Path) -> Result<Option<VideoInfo>> {
    let mut reader = reader(path)?;
    let video = |t: &Track| t.codec_params.as_ref().and_then(|p| p.video()).cloned();
    let Some((track, params)) = reader.tracks().iter().find_map(|t| Some((t.clone(), video(t)?))) else {
        return Ok(None);
    };
    let (mut frames, mut last) = (0, 0);
    while let Ok(Some(packet)) = reader.next_packet() {
        if packet.track_id == track.id {
            frames += 1;
            last = last.max(packet.pts.get());
        }
    }
    let spanned = seconds(&track, u64::try_from(last).unwrap_or(0));
    let fps = if frames > 1 && spanned > 0.0 {
        (frames - 1) as f64 / spanned
    } else {
        0.0
    };
    let codec = match params.codec {
        video_codecs::CODEC_ID_H264 => "h264",
        video_codecs::CODEC_ID_HEVC => "hevc",
        video_codecs::CODEC_ID_VP8 => "vp8",
        video_codecs::CODEC_ID_VP9 => "vp9",
        video_codecs::CODEC_ID_AV1 => "av1",
        video_codecs::CODEC_ID_MPEG4 => "mpeg4",
        _ => "unknown",
    };
    Ok(Some(VideoInfo {
        codec: codec.into(),
        width: usize::from(params.width.unwrap_or(0)),
        height: usize::from(params.height.unwrap_or(0)),
        fps,
        frames,
        duration: if fps > 0.0 { frames as f64 / fps } else { 0.0 },
    }))
}

/// Hands mono samples at the file's own rate to `sink`, with the rate, as they are decoded and without the encoder's
/// delay. What could not be used is in the notes.
pub(crate) fn read(path: &Path, sink: &mut dyn FnMut(&[f32], u32) -> Result<()>) -> Result<Vec<Note>> {
    let bad = |problem: String| Error::damaged(path, format!("its sound cannot be decoded: {problem}"));
    let mut stream = match find(path)? {
        Found::Stream(stream) => stream,
        Found::Unknown(info) => {
            let format = format!("its sound in {}", info.codec);
            return Err(Error::needs_ffmpeg(path, format, Error::UNKNOWN));
        }
        Found::Nothing => {
            return Err(Error::NoStream {
                path: path.into(),
                what: "audio stream",
            });
        }
    };
    let mut notes = Vec::new();
    let (mut done, mut skipped, mut rate) = (0usize, 0usize, 0u32);
    let (mut packets, mut damaged) = (0usize, 0usize);
    loop {
        let packet = match stream.packets.next() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            // What was decoded before a truncated end is as good as a shorter file.
            Err(why) if done > 0 => {
                let text = format!(
                    "its sound is used up to {:.2} s, what follows cannot be read: {why}",
                    done as f64 / f64::from(rate)
                );
                notes.push(Note::new(NoteKind::Damaged, path, text));
                break;
            }
            Err(why) => return Err(bad(why)),
        };
        packets += 1;
        let Some((interleaved, channels, this_rate)) = stream.decoder.decode(&packet).map_err(bad)? else {
            damaged += 1;
            continue;
        };
        if interleaved.is_empty() {
            continue;
        }
        if channels == 0 || this_rate == 0 || rate != 0 && rate != this_rate {
            return Err(bad(format!("it has {channels} channels at {this_rate} Hz")));
        }
        rate = this_rate;
        let samples = mono(&interleaved, channels);
        let skip = ((stream.skip * f64::from(rate)).round() as usize)
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
    if damaged > 0 {
        let text = format!("{damaged} of {packets} packets of its sound are damaged and were left out");
        notes.push(Note::new(NoteKind::Damaged, path, text));
    }
    Ok(notes)
}
