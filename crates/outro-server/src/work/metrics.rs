//! Counters in Prometheus' text form, under vLLM's stems.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outro::Answer;
use outro::engine::Finish;

/// Upper bounds of the buckets, in seconds.
const SECONDS: [f64; 15] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1200.0,
];

/// A number that goes up and down.
#[derive(Default)]
pub(crate) struct Gauge(AtomicUsize);

impl Gauge {
    pub(crate) fn set(&self, n: usize) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// Times by buckets.
#[derive(Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; SECONDS.len()],
    count: AtomicU64,
    /// In microseconds.
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, seconds: f64) {
        for (bucket, most) in self.buckets.iter().zip(SECONDS) {
            if seconds <= most {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
    }

    /// Measures until it is dropped.
    pub(crate) fn timer(&self) -> Timer<'_> {
        Timer(self, Instant::now())
    }
}

/// A running measurement.
pub(crate) struct Timer<'a>(&'a Histogram, Instant);

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.0.observe(self.1.elapsed().as_secs_f64());
    }
}

macro_rules! metrics {
    ($($field:ident: $kind:ident, $name:literal, $help:literal;)+) => {
        /// All that is counted.
        #[derive(Default)]
        pub(crate) struct Metrics {
            $(pub(crate) $field: $kind,)+
        }

        impl Metrics {
            /// Prometheus' text.
            pub(crate) fn text(&self) -> String {
                let mut out = String::new();
                $(self.$field.write($name, $help, &mut out);)+
                out
            }
        }
    };
}

metrics! {
    running: Gauge, "outro:num_requests_running", "Answers that run.";
    waiting: Gauge, "outro:num_requests_waiting", "Requests that wait for a place in the step.";
    preparing: Gauge, "outro:num_requests_preparing", "Requests whose media are fetched, decoded or encoded, or wait for it.";
    cache_bytes: Gauge, "outro:mm_cache_bytes", "Bytes of encoded media that are kept.";
    cache_queries: Counter, "outro:mm_cache_queries_total", "Requests with media.";
    cache_hits: Counter, "outro:mm_cache_hits_total", "Requests whose media were encoded before.";
    prompt_tokens: Counter, "outro:prompt_tokens_total", "Tokens of prompts.";
    generation_tokens: Counter, "outro:generation_tokens_total", "Tokens of answers.";
    success_stop: Counter, "outro:request_success_stop_total", "Answers that ended by themselves.";
    success_length: Counter, "outro:request_success_length_total", "Answers that reached their length.";
    rejections: Counter, "outro:admission_rejections_total", "Requests refused because the queue was full.";
    errors: Counter, "outro:request_errors_total", "Requests that ended with an error.";
    cancelled: Counter, "outro:request_cancelled_total", "Requests whose client went away.";
    silent: Counter, "outro:silent_video_total", "Videos without sound where sound was wanted.";
    sinks: Counter, "outro:sinks_total", "Attention sinks that OutRo found, over all layers.";
    queue_time: Histogram, "outro:request_queue_time_seconds", "From ready to the first step.";
    decode_media: Histogram, "outro:media_decode_seconds", "Media of a request fetched, decoded and encoded.";
    encode: Histogram, "outro:encode_seconds", "Towers over the media of a request.";
    first_token: Histogram, "outro:time_to_first_token_seconds", "From the first step to the first text.";
    between_tokens: Histogram, "outro:inter_token_latency_seconds", "Between two pieces of text.";
    prefill: Histogram, "outro:request_prefill_time_seconds", "Prompts.";
    decode: Histogram, "outro:request_decode_time_seconds", "Tokens of an answer.";
    whole: Histogram, "outro:e2e_request_latency_seconds", "From the first step to the end.";
}

impl Metrics {
    pub(crate) fn answered(&self, answer: &Answer, whole: Duration) {
        self.prompt_tokens.add(answer.prompt_tokens.total);
        self.generation_tokens.add(answer.tokens);
        match answer.finish {
            Finish::Stop => self.success_stop.add(1),
            Finish::Length => self.success_length.add(1),
        }
        let sinks = answer.sinks.iter().flatten().map(|(_, rows)| rows.len());
        self.sinks.add(sinks.sum());
        self.prefill.observe(answer.seconds.prefill);
        self.decode.observe(answer.seconds.decode);
        self.whole.observe(whole.as_secs_f64());
    }
}

/// Writing to a String cannot fail.
macro_rules! line {
    ($($word:tt)*) => { let _ = writeln!($($word)*); };
}

impl Gauge {
    fn write(&self, name: &str, help: &str, out: &mut String) {
        line!(
            out,
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {}",
            self.get()
        );
    }
}

impl Counter {
    fn write(&self, name: &str, help: &str, out: &mut String) {
        let n = self.0.load(Ordering::Relaxed);
        line!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {n}");
    }
}

impl Histogram {
    fn write(&self, name: &str, help: &str, out: &mut String) {
        line!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (bucket, most) in self.buckets.iter().zip(SECONDS) {
            line!(
                out,
                "{name}_bucket{{le=\"{most}\"}} {}",
                bucket.load(Ordering::Relaxed)
            );
        }
        let (count, sum) = (
            self.count.load(Ordering::Relaxed),
            self.sum.load(Ordering::Relaxed),
        );
        line!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        line!(out, "{name}_sum {}\n{name}_count {count}", sum as f64 / 1e6);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_prometheus() {
        let m = Metrics::default();
        m.running.set(3);
        m.first_token.observe(0.2);
        let text = m.text();
        for line in [
            "# TYPE outro:num_requests_running gauge",
            "outro:num_requests_running 3",
            "outro:time_to_first_token_seconds_bucket{le=\"0.1\"} 0",
            "outro:time_to_first_token_seconds_bucket{le=\"0.25\"} 1",
            "outro:time_to_first_token_seconds_bucket{le=\"+Inf\"} 1",
            "outro:time_to_first_token_seconds_sum 0.2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
