//! `eye health`: asks a running gateway whether it answers, and with `--ready` whether it takes requests. Container and unit
//! files call it: it needs no token and ends within seconds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{bail, ensure};
use clap::Args;
use serde_json::Value;

use super::output::say;
use super::remote::Probe;
use super::{Failure, Source};
use crate::config::{Config, remote};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Where the gateway listens, if it was started with this flag
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Ask whether it takes requests (/readyz), not only whether it answers (/healthz)
    #[arg(long)]
    ready: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let flags = arguments.listen.map(|address| ("listen", address)).into_iter().collect();
    let (_, config) = arguments.source.gather(flags)?;
    Ok(ask(&config, arguments.ready).await?)
}

async fn ask(config: &Config, ready: bool) -> anyhow::Result<()> {
    let probe = match remote::named() {
        Some(remote) => Probe::named(&remote)?,
        None => own(config)?,
    };
    let (url, status, answer) = probe.ask(if ready { "/readyz" } else { "/healthz" }).await?;
    ensure!((200..300).contains(&status), "{url} answers {status}{}", reasons(&answer));
    say(format_args!("{url} answers {status}"))
}

/// The gateway of these settings. `metrics_listen` comes first: it needs no certificate and no PROXY header, and it answers
/// when senders have taken all connections.
fn own(config: &Config) -> anyhow::Result<Probe> {
    if let Some(address) = config.metrics_listen {
        return Probe::of_address(reachable(address)?, false);
    }
    if config.proxy_protocol {
        bail!("listen answers nobody without a PROXY header (proxy_protocol): set metrics_listen, which is asked then");
    }
    if config.tls_client_auth {
        bail!("listen answers nobody without a certificate (tls_client_auth): set metrics_listen, which is asked then");
    }
    Probe::of_address(reachable(config.listen)?, config.tls_certificate.is_some())
}

/// The address to connect to for a gateway that listens on this one.
fn reachable(address: SocketAddr) -> anyhow::Result<SocketAddr> {
    ensure!(
        address.port() != 0,
        "the gateway listens on port 0, so its settings do not say which it took: name a port"
    );
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, address.port()))
}

/// The reasons in an answer of `/readyz`.
fn reasons(answer: &Value) -> String {
    let named: Vec<&str> = answer["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let named = if named.is_empty() { String::new() } else { format!(": {}", named.join(", ")) };
    answer["problem"].as_str().map_or(named.clone(), |problem| format!("{named}; {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn probe(file: &str) -> String {
        let (_, config) = Settings::from_parts(Some(("eye.toml", file)), std::iter::empty(), &[]).expect("sound");
        own(&config).map_or_else(|error| format!("{error:#}"), |probe| format!("{probe:?}"))
    }

    #[test]
    fn it_asks_where_anybody_is_answered() {
        for (file, wanted) in [
            ("", "http://127.0.0.1:8000/"),
            ("listen = \"0.0.0.0:9000\"", "http://127.0.0.1:9000/"),
            ("listen = \"[::]:9000\"", "http://[::1]:9000/"),
            ("listen = \"0.0.0.0:8000\"\nmetrics_listen = \"10.0.0.5:9100\"", "http://10.0.0.5:9100/"),
            ("tls_certificate = \"c\"\ntls_key = \"k\"", "https://127.0.0.1:8000/"),
            ("listen = \"127.0.0.1:0\"", "name a port"),
            ("trusted_proxies = \"10.0.0.0/8\"\nproxy_protocol = \"required\"", "set metrics_listen"),
        ] {
            let probe = probe(file);
            assert!(probe.contains(wanted), "{file}: {probe}");
        }
    }
}
