//! The `squire-proxy` command: reads the command line and the configuration, starts the runtime, turns errors into exit
//! codes. Everything else is the library's.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use squire_proxy::{
    config::{Config, PREFIX, Sources, reference},
    logging, memory,
    redirect::command::{Command as Redirect, Ended},
    run,
};

const USAGE: u8 = 2;
const CONFIGURATION: u8 = 78;
const UNAVAILABLE: u8 = 69;

const HELP: &str = "\
squire-proxy: the sidecar of the Squire mesh

Usage: squire-proxy <command> [options]

Commands:
  run       run the sidecar
  redirect  lead the connections of this network namespace through the sidecar, or stop that
  version   say which version this is

Examples:
  squire-proxy run --config proxy.yaml
  squire-proxy run --help
  squire-proxy redirect --check
";

const RUN_HELP: &str = "\
Run the sidecar until SIGTERM or SIGINT, then drain; a second signal stops at once. SIGUSR1 renews the SVID now.

Usage: squire-proxy run [--config FILE] [--set KEY=VALUE]... [--check]

Options:
  -c, --config FILE     the configuration, one YAML document
  -s, --set KEY=VALUE   a single value; wins over environment and file
      --check           check the configuration, say everything that is wrong with it, and exit
  -h, --help            this text

Exit codes: 0 ended or checked, 2 wrong usage, 69 not available (an address is taken), 70 internal error,
78 wrong configuration.

Examples:
  squire-proxy run --config proxy.yaml --set log.level=debug
  squire-proxy run --config proxy.yaml --check
  SQUIRE_PROXY_WORKLOAD=shop/web-0 squire-proxy run --config /etc/squire/proxy.yaml

A configuration:
  workload: shop/db-0
  trustDomain: cluster.local
  trustBundle: /var/run/squire/root.pem
  token: /var/run/squire/token
  control: squire-control.squire-system:15012
  inbound:
  - listen: 10.0.0.7:5432     # where peers connect
    app: 127.0.0.1:5432       # where the application listens
    port: 5432                # its port in policy [the port of listen]
  outbound:
  - listen: 127.0.0.1:8080    # where the application connects
    to: api.shop:80           # a service or workload, or IP:port
";

enum Command {
    Run { sources: Sources, check: bool },
    Redirect(Redirect),
    Print(String),
}

fn main() -> ExitCode {
    match parse(lexopt::Parser::from_env()) {
        Ok(Command::Print(text)) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Ok(Command::Redirect(redirect)) => ended(redirect.run()),
        Ok(Command::Run { sources, check }) => ExitCode::from(start(&sources, check)),
        Err(error) => {
            complain(&format!("{error}\nTry `squire-proxy --help`."));
            ExitCode::from(USAGE)
        }
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    use lexopt::prelude::{Long, Short, Value};
    match parser.next()? {
        Some(Value(command)) if command == "run" => parse_run(parser),
        Some(Value(command)) if command == "redirect" => {
            let variable = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
            Redirect::parse(parser, variable).map(Command::Redirect)
        }
        Some(Value(command)) if command == "version" => Ok(Command::Print(version())),
        Some(Long("version") | Short('V')) => Ok(Command::Print(version())),
        Some(Long("help") | Short('h')) => Ok(Command::Print(HELP.to_owned())),
        Some(argument) => Err(argument.unexpected()),
        None => Err("a command is missing: run, redirect or version".into()),
    }
}

fn parse_run(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    use lexopt::{
        ValueExt as _,
        prelude::{Long, Short},
    };
    let (mut file, mut flags, mut check) = (None, Vec::new(), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("config") | Short('c') => file = Some(PathBuf::from(parser.value()?)),
            Long("set") | Short('s') => flags.push(parser.value()?.string()?),
            Long("check") => check = true,
            Long("help") | Short('h') => return Ok(Command::Print(run_help())),
            _ => return Err(argument.unexpected()),
        }
    }
    let sources = Sources::of_process(file, flags);
    Ok(Command::Run { sources, check })
}

fn run_help() -> String {
    format!(
        "{RUN_HELP}\nKeys with a single value [default]; each can be set in the file, as {PREFIX}… in the environment \
         (trustDomain is {PREFIX}TRUST_DOMAIN), or with --set:\n{}",
        reference()
    )
}

fn version() -> String {
    format!("squire-proxy {}\n", env!("CARGO_PKG_VERSION"))
}

fn start(sources: &Sources, check: bool) -> u8 {
    let config = match Config::load(sources) {
        Ok(config) => config,
        Err(problems) => {
            complain(&problems.to_string());
            return CONFIGURATION;
        }
    };
    if check {
        print("the configuration is valid\n");
        return 0;
    }
    memory::settle();
    if let Err(error) = logging::start(&config.log) {
        complain(&format!("the log cannot be started: {error}"));
        return UNAVAILABLE;
    }
    match runtime().map(|runtime| runtime.block_on(run::run(config))) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            tracing::error!(%error, "the sidecar cannot run");
            error.exit_code()
        }
        Err(error) => {
            tracing::error!(%error, "the runtime cannot be started");
            UNAVAILABLE
        }
    }
}

fn ended(Ended { code, text }: Ended) -> ExitCode {
    match code {
        0 => print(&text),
        _ => complain(text.trim_end()),
    }
    ExitCode::from(code)
}

/// One thread: a sidecar usually has one core. Names are resolved on another, which goes away again.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
}

#[allow(clippy::print_stdout, reason = "the output of a command that was asked for")]
fn print(text: &str) {
    print!("{text}");
}

#[allow(clippy::print_stderr, reason = "there is no log yet")]
fn complain(text: &str) {
    eprintln!("squire-proxy: {text}");
}
