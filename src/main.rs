//! The binary: runs what the command line asks for, keeps the configuration up to date, ends in good order.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use nexus_gateway::cli::{Cli, Command, KeysCommand, ResolveArgs, RunArgs, exit};
use nexus_gateway::config::{self, Problem, Settings};
use nexus_gateway::resolve::{Question, Resolved, asker, resolve};
use nexus_gateway::run::{Drained, Running};
use nexus_gateway::telemetry::{LogFormat, LogSettings};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// A request makes about two dozen small allocations on one thread; the C library's allocator takes several times as
/// long for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Time between two looks at the configuration. Reading it anew is more reliable than watching for changes: it works
/// the same for symlink swaps, network file systems and secrets.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Level = reload::Handle<EnvFilter, Registry>;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(exit::OS, &format!("cannot start: {error}")),
    };
    match cli.command {
        Command::Run(args) => runtime.block_on(run(&args)),
        Command::Check { config } => match config::load(Some(&config), &config::Overrides::default()).1 {
            Ok(settings) => {
                for note in config::notes(&settings) {
                    println!("note: {note}");
                }
                ExitCode::SUCCESS
            }
            Err(problems) => refuse(&problems),
        },
        Command::Resolve(args) => runtime.block_on(explain(&args)),
        Command::Keys(KeysCommand::New { id }) => {
            println!("{}", config::new_key(id.as_deref()));
            ExitCode::SUCCESS
        }
        Command::Keys(KeysCommand::Api { name, namespace }) => match config::new_api_key(&name, namespace.as_deref()) {
            Some(key) => {
                eprintln!("the key, which is shown this once: {}", key.text);
                println!("{}", key.entry);
                ExitCode::SUCCESS
            }
            None => fail(exit::USAGE, "nobody may be called so"),
        },
    }
}

/// `run`: until a signal ends it.
async fn run(args: &RunArgs) -> ExitCode {
    let (mut inputs, settings) = config::load(args.source.config.as_deref(), &args.overrides());
    let settings = match settings {
        Ok(settings) => settings,
        Err(problems) => return refuse(&problems),
    };
    let level = start_log(&settings.log);
    if settings.clusters.is_empty() && settings.endpoints.is_empty() {
        tracing::warn!("nothing to serve: name a cluster with --cluster, or clusters or endpoints in a file");
    }
    let (mut end, mut reload) = match (Signals::new(), signal(SignalKind::hangup())) {
        (Ok(end), Ok(reload)) => (end, reload),
        (Err(error), _) | (_, Err(error)) => return fail(exit::OS, &format!("cannot listen for signals: {error}")),
    };
    let running = match Running::start(settings).await {
        Ok(running) => running,
        Err(error) => return fail(exit::OS, &error.to_string()),
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving");
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = end.next() => break,
            _ = reload.recv() => {}
            _ = looks.tick() => {}
        }
        let (path, overrides, before) = (args.source.config.clone(), args.overrides(), inputs.clone());
        let loading = tokio::task::spawn_blocking(move || config::load_changed(path.as_deref(), &overrides, &before));
        if let Ok(Some((now, settings))) = loading.await {
            inputs = now;
            take(&running, settings, &level).await;
        }
    }
    match running.drain(end.next()).await {
        Drained::Clean => ExitCode::SUCCESS,
        Drained::Cut(_) => ExitCode::from(exit::CUT),
    }
}

/// Puts a changed configuration in force, or keeps the one there is.
async fn take(running: &Running, settings: Result<Settings, Vec<Problem>>, level: &Level) {
    let outcome = match settings {
        Err(problems) => {
            for problem in &problems {
                tracing::error!(%problem, "the changed configuration is refused; the last good one stays in force");
            }
            Err(())
        }
        Ok(settings) => {
            let log = settings.log.clone();
            running.apply(settings).await.map(|()| set_level(level, &log)).map_err(|error| {
                tracing::error!(%error, "the changed configuration is refused; the last good one stays in force");
            })
        }
    };
    let telemetry = running.telemetry();
    let (result, successful) = if outcome.is_ok() { ("applied", 1) } else { ("refused", 0) };
    telemetry.reloads.with_label_values(&[result]).inc();
    telemetry.last_reload_successful.set(successful);
    if outcome.is_ok() {
        tracing::info!("the changed configuration is in force");
    }
}

/// `resolve`.
async fn explain(args: &ResolveArgs) -> ExitCode {
    let settings = match config::load(args.source.config.as_deref(), &args.overrides()).1 {
        Ok(settings) => settings,
        Err(problems) => return refuse(&problems),
    };
    let question = Question {
        service: &args.service,
        operation: &args.operation,
        caller: args.caller,
        who: args.who.as_deref().map(|name| asker(name, args.as_namespace.as_deref())),
    };
    match resolve(settings, &args.name, question).await {
        Resolved::Found(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Resolved::Absent => fail(exit::NOT_FOUND, &format!("no source has a Nexus endpoint named {:?}", args.name)),
        Resolved::Unavailable(why) => fail(exit::UNAVAILABLE, &format!("cannot say: {why}")),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Log lines go to standard error; the handle changes their level later.
fn start_log(settings: &LogSettings) -> Level {
    let (filter, level) = reload::Layer::new(EnvFilter::new(&settings.level));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
        LogFormat::Text => registry.with(layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).init(),
    }
    level
}

fn set_level(level: &Level, settings: &LogSettings) {
    if let Err(error) = level.reload(EnvFilter::new(&settings.level)) {
        tracing::error!(%error, "cannot change the log level");
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    // Help that was asked for is no error.
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // Where standard error is closed there is nobody to tell.
    let _ = error.print();
    if asked_for { ExitCode::SUCCESS } else { ExitCode::from(exit::USAGE) }
}

fn refuse(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        eprintln!("{problem}");
    }
    ExitCode::from(exit::CONFIG)
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("nexus-gateway: {message}");
    ExitCode::from(code)
}
