//! `outro serve`: an OpenAI-compatible server over [`outro::Engine`], with OutRo in the API.
//!
//! `api` reads requests and writes replies, `door` takes media in, `work` prepares and runs questions, `http` has routes and
//! connections.

mod api;
pub mod door;
mod http;
mod work;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::door::{Door, Rules};
use crate::http::App;
pub use crate::work::{Load, ModelSpec};
use crate::work::{Metrics, Models, Preparing};

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Models by name; the first answers where a request names none.
    pub models: Vec<ModelSpec>,
    /// Most models that are loaded at a time.
    pub max_loaded: usize,
    /// Keys, of which a request must have one; none asks for none.
    pub keys: Vec<String>,
    /// Origins of pages that may ask (CORS).
    pub origins: Vec<String>,
    /// Most tokens of prompt and answer; `None` is the model's own.
    pub max_model_len: Option<usize>,
    /// Most answers that run in one step.
    pub max_num_seqs: usize,
    /// Most requests that wait beside those that run.
    pub max_queue: usize,
    /// Where media may come from.
    pub rules: Rules,
    /// What a file may cost, and whether its decoders are confined; that needs `worker`.
    pub limits: outro_media::Limits,
    /// Bounds of what is kept of uploads.
    pub files: door::FileLimits,
    /// How long a decoder may be silent.
    pub decode: Duration,
    /// Bytes of encoded media that are kept.
    pub cache_memory: u64,
    /// Most bytes of a request's body.
    pub max_body: usize,
    /// The strategy where a request names none.
    pub strategy: Option<String>,
    /// How long running requests may go on after a signal to stop.
    pub patience: Duration,
    /// The program that decodes in a process of its own (`outro_media::Options::worker`).
    pub worker: Option<PathBuf>,
}

/// A line of the log.
pub type Log = dyn Fn(&str) + Send + Sync;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound, or the system refuses threads or signals.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The first model cannot be opened.
    #[error("{0}")]
    Model(String),
}

/// How long work of nobody may take to notice that the server ends.
const LAST: Duration = Duration::from_secs(5);

/// Binds, loads the first model, serves until SIGTERM or Ctrl-C. `ready` is told the address.
///
/// # Errors
/// As [`enum@Error`] says.
pub fn serve(
    address: SocketAddr,
    options: Options,
    load: Arc<Load>,
    log: Arc<Log>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), Error> {
    let refused = |e| Error::Listen(address, e);
    let listener = TcpListener::bind(address).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let metrics = Arc::new(Metrics::default());
    let sizes = (options.max_loaded.max(1), options.max_num_seqs.max(1));
    let models = Models::new(options.models, load, sizes, Arc::clone(&metrics));
    models.get(None).map_err(|e| Error::Model(e.message))?;
    let door = Arc::new(Door::new(options.rules).with_files(options.files));
    let app = Arc::new(App {
        models,
        preparing: Preparing {
            door: Arc::clone(&door),
            cache: Preparing::cache(options.cache_memory),
            metrics: Arc::clone(&metrics),
            strategy: options.strategy,
            max_model_len: options.max_model_len,
            limits: options.limits,
            decode: options.decode,
            worker: options.worker,
        },
        metrics,
        desks: Arc::new(Semaphore::new(http::DESKS)),
        body_bytes: AtomicUsize::new(0),
        taken: AtomicUsize::new(0),
        most_taken: options.max_num_seqs.max(1) + options.max_queue,
        stopping: AtomicBool::new(false),
        keys: http::digests(&options.keys),
        origins: options.origins,
        max_body: options.max_body,
        max_model_len: options.max_model_len,
        max_num_seqs: options.max_num_seqs,
        started: http::now(),
        log,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(refused)?;
    let served: io::Result<()> = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let stop = stopped()?;
        ready(bound);
        let router = http::router(&app, door.routes());
        http::listen(listener, router, &app, stop, options.patience).await;
        Ok(())
    });
    // Requests that are still there are dropped, which stops their work.
    runtime.shutdown_timeout(LAST);
    served.map_err(refused)
}

/// Resolves at SIGTERM or Ctrl-C.
fn stopped() -> io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = term.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// An id that no other request of this process has.
fn id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!(
        "{:x}-{:x}-{:x}",
        http::now(),
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}
