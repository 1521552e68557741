//! The command line: what can be said on it, and what `check` and `resolve` answer.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Overrides};

/// Exit codes, as `sysexits.h` has them.
pub mod exit {
    /// The endpoint asked for does not exist.
    pub const NOT_FOUND: u8 = 1;
    /// The command line is wrong (`EX_USAGE`).
    pub const USAGE: u8 = 64;
    /// A cluster that had to be asked did not answer (`EX_UNAVAILABLE`).
    pub const UNAVAILABLE: u8 = 69;
    /// The operating system refused something, such as a port (`EX_OSERR`).
    pub const OS: u8 = 71;
    /// Requests in flight were cut at the end (`EX_TEMPFAIL`).
    pub const CUT: u8 = 75;
    /// The configuration is wrong (`EX_CONFIG`).
    pub const CONFIG: u8 = 78;
}

/// A gateway for Temporal Nexus: takes requests addressed to an endpoint's name, finds out where that name lives,
/// and carries them there.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  nexus-gateway run --cluster http://127.0.0.1:7243
      Serve the Nexus endpoints of a Temporal cluster by name, with no file at all. 7243 is the frontend's HTTP port.
      An External endpoint of another cluster then needs only this target URL:
      http://GATEWAY:7280/nexus/endpoints/NAME/services
  nexus-gateway run --config gateway.yaml
      As the file says. A change of the file takes effect without a restart.
  nexus-gateway check --config gateway.yaml
      All errors of the file at once, each with its line.
  nexus-gateway resolve payments --config gateway.yaml
      Where the endpoint payments lives, who says so, and what holds for its requests.
  nexus-gateway resolve payments --as orders --service Payments --operation quote --config gateway.yaml
      Whether the caller orders may call that operation, and by which rule.
  nexus-gateway keys new
      A key for callbacks.keys, as a line of YAML.
  nexus-gateway keys api --name orders
      An API key for a caller, and its hash for authentication.api_keys, as a line of YAML.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve. SIGTERM or Ctrl-C drains: no new connections, requests in flight end, exit 0; a second one ends at once.
    /// SIGHUP reads the configuration again.
    Run(RunArgs),
    /// Read a configuration and name all of its errors, each with path and line. Exit 0, or 78 where there are any. Of a
    /// good one it prints what is good to know.
    Check {
        /// A YAML file, or a folder whose *.yaml and *.yml files are merged in the order of their names.
        #[arg(long, value_name = "PATH")]
        config: PathBuf,
    },
    /// Say where an endpoint leads, by which source, under which policy, and why. Exit 1 where it does not exist, 69
    /// where a cluster did not answer.
    Resolve(ResolveArgs),
    /// Keys that seal callbacks, and keys that callers show.
    #[command(subcommand)]
    Keys(KeysCommand),
}

/// What to do about keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it as an entry of callbacks.keys, and nothing else. It is kept nowhere: keep it secret, give
    /// the same one to all gateways that stand in for each other, and keep it until every operation that was started
    /// under it has ended.
    New {
        /// What the key is called: 1 to 64 letters, digits, `.`, `-` and `_` [default: k and today's date].
        #[arg(long, value_parser = config::key_id)]
        id: Option<String>,
    },
    /// Make an API key for a caller. The key itself goes to standard error, once, and is kept nowhere: give it to the
    /// caller, who sends it in a header. Its hash goes to standard output, as an entry of `authentication.api_keys.keys`.
    Api {
        /// Whose key it is: 1 to 256 printable ASCII characters.
        #[arg(long, value_parser = config::caller_name)]
        name: String,
        /// The Temporal namespace that the caller calls from.
        #[arg(long, value_parser = config::caller_namespace)]
        namespace: Option<String>,
    },
}

/// Where the configuration comes from.
#[derive(Args, Debug)]
pub struct SourceArgs {
    /// A YAML file, or a folder whose *.yaml and *.yml files are merged in the order of their names.
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// A Temporal cluster by the URL of its frontend's HTTP port; its endpoints are served by name. Repeatable.
    #[arg(long, value_name = "URL")]
    pub cluster: Vec<String>,
}

/// Flags of `run`; they win over the file.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Sources.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Address of the data port [default: 127.0.0.1:7280]; port 0 takes a free one, which is logged.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Address of the admin port with /metrics, /healthz, /readyz and /endpoints [default: 127.0.0.1:7281].
    #[arg(long, value_name = "IP:PORT")]
    pub admin: Option<SocketAddr>,
    /// Folder for what has to outlive the process, such as the last good endpoint tables.
    #[arg(long, value_name = "DIRECTORY")]
    pub state: Option<PathBuf>,
}

/// Flags of `resolve`.
#[derive(Args, Debug)]
pub struct ResolveArgs {
    /// The endpoint's name, or its id.
    pub name: String,
    /// Sources.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Name a service, for policies and rules that depend on it.
    #[arg(long, default_value = "")]
    pub service: String,
    /// Name an operation, for policies and rules that depend on it.
    #[arg(long, default_value = "")]
    pub operation: String,
    /// Name a caller without a name by the address that it connects from, for policies that depend on it.
    #[arg(long, value_name = "IP")]
    pub caller: Option<IpAddr>,
    /// Say whether the caller of this name may call it, by which rule, and why the others do not fit; `anonymous`: one
    /// that shows no credential. Also for policies that depend on it.
    #[arg(long = "as", value_name = "CALLER")]
    pub who: Option<String>,
    /// The namespace that this caller calls from.
    #[arg(long, value_name = "NAMESPACE", requires = "who")]
    pub as_namespace: Option<String>,
}

impl RunArgs {
    /// What these flags say about settings.
    pub fn overrides(&self) -> Overrides {
        let Self { source, listen, admin, state } = self;
        Overrides { clusters: source.cluster.clone(), listen: *listen, admin: *admin, state: state.clone() }
    }
}

impl ResolveArgs {
    /// What these flags say about settings.
    pub fn overrides(&self) -> Overrides {
        Overrides { clusters: self.source.cluster.clone(), ..Overrides::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_the_examples_exist() {
        for line in EXAMPLES.lines().map(str::trim).filter(|line| line.starts_with("nexus-gateway ")) {
            Cli::try_parse_from(line.split(' ')).unwrap();
        }
    }

    #[test]
    fn clusters_may_be_repeated() {
        let cli = Cli::try_parse_from(["nexus-gateway", "run", "--cluster", "http://a:1", "--cluster", "http://b:2"]);
        let Command::Run(run) = cli.unwrap().command else { panic!("not run") };
        assert_eq!(run.overrides().clusters, ["http://a:1", "http://b:2"]);
    }
}
