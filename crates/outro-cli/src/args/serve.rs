//! `outro serve` as it is typed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use outro::Activations;
use outro_media::Limits;
use outro_server::door::{FileLimits, Rules};
use outro_server::{ModelSpec, Options};

use super::flags::{ModelFlags, WeightFlags};
use super::{Weights, weights};
use crate::fault::Fault;

const MIB: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct ServeFlags {
    /// A checkpoint directory, a GGUF file, or a hub id; may be repeated. The first is loaded at once and answers where a request
    /// names no model, others when they are asked for [default: OUTRO_MODEL, else outro-tiny].
    #[arg(long, short, value_name = "DIR|FILE|ID")]
    model: Vec<String>,
    /// What requests call the models, in their order [default: as they were given].
    #[arg(long, value_name = "NAME")]
    served_model_name: Vec<String>,
    /// The file of a GGUF model's towers; with one --model.
    #[arg(long, value_name = "FILE")]
    mmproj: Option<PathBuf>,
    /// A LoRA adapter; with one --model.
    #[arg(long, value_name = "DIR|ID[=WEIGHT]")]
    adapter: Vec<String>,
    /// How requests are answered that name no strategy: a name of `outro eval list` [default: outro; baseline on models of text
    /// alone].
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Where to listen; 0.0.0.0 is every network, for whom --api-key is meant.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes a free one.
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// A key that requests must have (Authorization: Bearer KEY); may be repeated [default: OUTRO_API_KEY].
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,
    /// Origins of pages on other servers that may ask; * is any.
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    allowed_origins: Vec<String>,
    /// Most tokens of prompt and answer [default: the model's own].
    #[arg(long, value_name = "N", help_heading = "Limits")]
    max_model_len: Option<usize>,
    /// Most answers that are computed in one step.
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Limits")]
    max_num_seqs: usize,
    /// Most requests that wait beside them; more get 503 and try again.
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Limits")]
    max_queue: usize,
    /// Most models in memory; the least recently used makes room.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Limits")]
    max_loaded_models: usize,
    /// Encoded media that are kept for further questions, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024, help_heading = "Limits")]
    cache_memory: u64,
    /// How long running requests may go on after a signal to stop, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Limits")]
    shutdown_timeout: u64,
    /// Media on this machine that requests may name: files below this directory [default: none].
    #[arg(long, value_name = "DIR", help_heading = "Media")]
    allowed_local_media_path: Option<PathBuf>,
    /// Hosts from which media are fetched, joined by commas [default: none].
    #[arg(long, value_name = "HOST", value_delimiter = ',', help_heading = "Media")]
    allowed_media_domains: Vec<String>,
    /// Fetch http: too, not only https:.
    #[arg(long, help_heading = "Media")]
    allow_plain_http: bool,
    /// Most media of a request by kind, as JSON or as image=4,video=1,audio=2 [default: no limit].
    #[arg(long, value_name = "KIND=N", help_heading = "Media")]
    limit_mm_per_prompt: Option<String>,
    /// Most MiB of a medium.
    #[arg(long, value_name = "MIB", default_value_t = 256, help_heading = "Media")]
    max_media_size: u64,
    /// Most MiB of a request's JSON, media inside it included.
    #[arg(long, value_name = "MIB", default_value_t = 512, help_heading = "Media")]
    max_body_size: u64,
    /// Longest video or sound, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3600.0,
        help_heading = "Media"
    )]
    max_media_seconds: f64,
    /// Give up on fetching a medium after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, help_heading = "Media")]
    fetch_timeout: u64,
    /// Give up on a decoder that is silent for so many seconds, or works for twenty times as many.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Media")]
    decode_timeout: u64,
    #[command(flatten)]
    weights: WeightFlags,
}

/// `outro serve`.
#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) address: SocketAddr,
    pub(crate) options: Options,
    /// Of the models, all but which.
    pub(crate) model: ModelFlags,
    /// Whether a model was named.
    pub(crate) named: bool,
    pub(crate) weights: Weights,
}

/// Most pixels of a frame, as other servers have it.
const MAX_PIXELS: u64 = 178_956_970;

pub(super) fn serve(f: ServeFlags) -> anyhow::Result<Serve> {
    let address = address(&f.host, f.port)?;
    if f.model.len() > 1 && (f.mmproj.is_some() || !f.adapter.is_empty()) {
        return Err(
            Fault::usage("--mmproj and --adapter are of one model, and there are several")
                .hint("serve one model, or write the adapted one with `outro convert`")
                .into(),
        );
    }
    for (flag, n) in [
        ("--max-num-seqs", f.max_num_seqs as u64),
        ("--max-loaded-models", f.max_loaded_models as u64),
        ("--max-media-size", f.max_media_size),
        ("--max-body-size", f.max_body_size),
        ("--decode-timeout", f.decode_timeout),
        ("--fetch-timeout", f.fetch_timeout),
        ("--max-model-len", f.max_model_len.unwrap_or(1) as u64),
    ] {
        if n == 0 {
            return Err(Fault::usage(format!("{flag} is 0"))
                .hint("give a number from 1 up")
                .into());
        }
    }
    let mut keys = f.api_key;
    if keys.is_empty() {
        keys.extend(std::env::var("OUTRO_API_KEY").ok());
    }
    if keys.iter().any(|k| k.trim().is_empty()) {
        return Err(Fault::usage("a key is empty")
            .hint("give --api-key a key, or unset OUTRO_API_KEY")
            .into());
    }
    let named = !f.model.is_empty();
    let sources = if named { f.model } else { vec![String::new()] };
    if f.served_model_name.len() > sources.len() {
        return Err(
            Fault::usage("there are more names (--served-model-name) than models")
                .hint("give as many as there are --model, in the same order")
                .into(),
        );
    }
    let unnamed = |source: &String| {
        if source.is_empty() {
            "outro-tiny".to_owned()
        } else {
            source.clone()
        }
    };
    let models: Vec<ModelSpec> = sources
        .iter()
        .enumerate()
        .map(|(i, source)| ModelSpec {
            name: f
                .served_model_name
                .get(i)
                .cloned()
                .unwrap_or_else(|| unnamed(source)),
            source: source.clone(),
        })
        .collect();
    for (i, model) in models.iter().enumerate() {
        if models[..i].iter().any(|m| m.name == model.name) {
            return Err(Fault::usage(format!("two models are called {}", model.name))
                .hint("give them names with --served-model-name")
                .into());
        }
    }
    Ok(Serve {
        address,
        model: ModelFlags {
            model: None,
            mmproj: f.mmproj,
            adapter: f.adapter,
        },
        named,
        weights: weights(&f.weights, Activations::Reduced)?,
        options: Options {
            models,
            max_loaded: f.max_loaded_models,
            keys,
            origins: f.allowed_origins,
            max_model_len: f.max_model_len,
            max_num_seqs: f.max_num_seqs,
            max_queue: f.max_queue,
            rules: Rules {
                local: f.allowed_local_media_path,
                domains: f.allowed_media_domains,
                plain_http: f.allow_plain_http,
                bytes: f.max_media_size.saturating_mul(MIB),
                request_bytes: f.max_media_size.saturating_mul(MIB).saturating_mul(2),
                count: counts(f.limit_mm_per_prompt.as_deref())?,
                fetch: Duration::from_secs(f.fetch_timeout),
            },
            limits: Limits {
                isolate: true,
                pixels: MAX_PIXELS,
                length: Duration::try_from_secs_f64(f.max_media_seconds).map_err(|_| {
                    Fault::usage("--max-media-seconds is no time").hint("give a number of seconds above 0")
                })?,
                decode: Duration::from_secs(f.decode_timeout.saturating_mul(20)),
                ..Limits::default()
            },
            files: FileLimits::default(),
            decode: Duration::from_secs(f.decode_timeout),
            cache_memory: f.cache_memory.saturating_mul(MIB),
            max_body: usize::try_from(f.max_body_size.saturating_mul(MIB)).unwrap_or(usize::MAX),
            strategy: f.strategy,
            patience: Duration::from_secs(f.shutdown_timeout),
            worker: None,
        },
    })
}

fn address(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    if host == "localhost" {
        return Ok((IpAddr::from(Ipv4Addr::LOCALHOST), port).into());
    }
    let found = (host.trim_matches(['[', ']']), port).to_socket_addrs().ok();
    let first = found.and_then(|mut all| all.next());
    first.ok_or_else(|| {
        Fault::usage(format!("--host {host}: is no address"))
            .hint("give 127.0.0.1 for this machine, 0.0.0.0 for every network")
            .into()
    })
}

/// Most images, videos and sounds, of `{"video": 1}` or `video=1,image=4`.
fn counts(text: Option<&str>) -> anyhow::Result<[Option<usize>; 3]> {
    let Some(text) = text else { return Ok([None; 3]) };
    let wrong = || {
        Fault::usage(format!("--limit-mm-per-prompt {text}: is not understood"))
            .hint("give image=4,video=1,audio=2 or {\"image\": 4, \"video\": 1}")
    };
    let pairs: Vec<(String, usize)> = if text.trim_start().starts_with('{') {
        let map: std::collections::BTreeMap<String, usize> =
            serde_json::from_str(text).map_err(|_| wrong())?;
        map.into_iter().collect()
    } else {
        let pair = |p: &str| -> Option<(String, usize)> {
            let (kind, n) = p.split_once('=')?;
            Some((kind.trim().to_owned(), n.trim().parse().ok()?))
        };
        text.split(',')
            .map(pair)
            .collect::<Option<_>>()
            .ok_or_else(wrong)?
    };
    let mut out = [None; 3];
    for (kind, n) in pairs {
        let place = ["image", "video", "audio"].iter().position(|k| *k == kind);
        out[place.ok_or_else(wrong)?] = Some(n);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_in_both_forms() {
        assert_eq!(
            counts(Some("video=1, image=4")).unwrap(),
            [Some(4), Some(1), None]
        );
        assert_eq!(counts(Some("{\"audio\": 0}")).unwrap(), [None, None, Some(0)]);
        for bad in ["video", "film=1", "{\"video\": -1}", "video=x"] {
            assert!(counts(Some(bad)).is_err(), "{bad}");
        }
        assert!(address("no such host.", 1).is_err());
        assert_eq!(address("::1", 1).unwrap().to_string(), "[::1]:1");
    }
}
