//! A cluster of two Postgres under Patroni, with etcd and HAProxy. Patroni promotes the standby when the primary is gone, and
//! HAProxy connects clients to the primary. All programs run on loopback as the user of Postgres, and end with the test.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::cluster::{BINARIES, as_postgres, free_port, give_to_postgres, signal_family};
use super::{eventually, folder, psql_at};

/// `./setup operate` installs them.
const ETCD: &str = "/usr/bin/etcd";
const PATRONI: &str = "/usr/bin/patroni";
const HAPROXY: &str = "/usr/sbin/haproxy";

/// A program that ends with the test.
struct Process(Child);

impl Process {
    fn start(program: &str, arguments: &[&str], folder: &Path, log: &str) -> Process {
        assert!(Path::new(program).exists(), "there is no {program}: `./setup operate` installs it");
        let log = File::create(folder.join(log)).expect("a log");
        let again = log.try_clone().expect("a log");
        let mut command = as_postgres(program);
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(log).stderr(again);
        Process(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")))
    }

    fn kill(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One Postgres and its Patroni.
struct Member {
    name: &'static str,
    /// The ports of Postgres and of Patroni's REST API.
    port: u16,
    api: u16,
    patroni: Process,
}

/// The cluster.
pub(crate) struct Cluster {
    members: [Member; 2],
    proxy: Process,
    proxy_port: u16,
    etcd: Process,
    client: reqwest::Client,
    folder: TempDir,
}

impl Cluster {
    /// Starts the cluster, and waits for a primary with a synchronous standby.
    pub(crate) async fn start() -> Cluster {
        let folder = folder();
        give_to_postgres(folder.path());
        let at = folder.path();
        let (client_port, peer_port, proxy_port) = (free_port(), free_port(), free_port());
        let (client_url, peer_url) =
            (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        let only = format!("default={peer_url}");
        let arguments = [
            ["--data-dir", "etcd"],
            ["--listen-client-urls", &client_url],
            ["--advertise-client-urls", &client_url],
            ["--listen-peer-urls", &peer_url],
            ["--initial-advertise-peer-urls", &peer_url],
            ["--initial-cluster", &only],
        ];
        let etcd = Process::start(ETCD, arguments.as_flattened(), at, "etcd.log");
        let client = reqwest::Client::new();
        let health = format!("{client_url}/health");
        let is_healthy = async || client.get(&health).send().await.is_ok_and(|answer| answer.status().is_success());
        eventually("etcd answers", async || is_healthy().await.then_some(())).await;
        let members = ["one", "two"].map(|name| member(name, at, client_port));
        std::fs::write(at.join("haproxy.cfg"), proxy_settings(proxy_port, &members)).expect("written");
        let proxy = Process::start(HAPROXY, &["-db", "-f", "haproxy.cfg"], at, "haproxy.log");
        let cluster = Cluster { members, proxy, proxy_port, etcd, client, folder };
        cluster.settles().await;
        cluster
    }

    /// Waits for a primary with a synchronous standby. Returns the place of the primary.
    pub(crate) async fn settles(&self) -> usize {
        eventually("the cluster has a primary and a synchronous standby", async || {
            let members = self.members().await?;
            let (leader, _) = members.iter().find(|(_, role)| role == "leader")?;
            members.iter().any(|(_, role)| role == "sync_standby").then_some(*leader)
        })
        .await
    }

    /// Places and roles of the running members.
    async fn members(&self) -> Option<Vec<(usize, String)>> {
        for member in &self.members {
            let asked = self.client.get(format!("http://127.0.0.1:{}/cluster", member.api)).send().await;
            let Ok(answer) = asked else { continue };
            let Ok(cluster) = answer.json::<Value>().await else { continue };
            let place = |one: &Value| self.members.iter().position(|member| one["name"] == member.name);
            let members = cluster["members"]
                .as_array()?
                .iter()
                .filter(|one| one["state"] == "running" || one["state"] == "streaming");
            return Some(members.filter_map(|one| Some((place(one)?, one["role"].as_str()?.to_owned()))).collect());
        }
        None
    }

    /// Asks Patroni for a switchover.
    pub(crate) async fn switch_over(&self, leader: usize) {
        let (from, to) = (&self.members[leader], &self.members[1 - leader]);
        let request = self.client.post(format!("http://127.0.0.1:{}/switchover", from.api));
        let answer = request.body(json!({"leader": from.name, "candidate": to.name}).to_string()).send().await;
        let answer = answer.expect("Patroni answers");
        let status = answer.status();
        assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap_or_default());
    }

    /// Kills the Patroni and the Postgres of a member at once, like a loss of power.
    pub(crate) fn kill(&mut self, place: usize) {
        let member = &mut self.members[place];
        member.patroni.kill();
        signal_family(&self.folder.path().join(member.name), "KILL");
    }

    /// The URL of the primary through HAProxy.
    pub(crate) fn proxy_url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.proxy_port)
    }

    /// The URL of both members without HAProxy.
    pub(crate) fn hosts_url(&self) -> String {
        let [one, two] = &self.members;
        format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
            one.port, two.port
        )
    }

    /// Whether a member is the primary.
    pub(crate) async fn is_primary(&self, place: usize) -> bool {
        let asked = self.client.get(format!("http://127.0.0.1:{}/primary", self.members[place].api)).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }

    /// Runs statements on a member and returns their rows.
    pub(crate) fn sql(&self, place: usize, script: &str) -> String {
        psql_at(self.folder.path(), self.members[place].port, "postgres", script).trim().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["etcd.log", "one.log", "two.log", "haproxy.log"] {
                let text = std::fs::read_to_string(self.folder.path().join(log)).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(20).collect();
                eprintln!("the end of {log}, the last line first:\n{}", last.join("\n"));
            }
        }
        (0..self.members.len()).for_each(|place| self.kill(place));
        self.proxy.kill();
        self.etcd.kill();
    }
}

fn member(name: &'static str, folder: &Path, etcd_port: u16) -> Member {
    let (port, api, at) = (free_port(), free_port(), folder.display());
    // The times are the shortest that Patroni takes. A watchdog needs a device that tests do not have.
    let settings = format!(
        "scope: eye
name: {name}
restapi: {{listen: '127.0.0.1:{api}', connect_address: '127.0.0.1:{api}'}}
etcd3: {{host: '127.0.0.1:{etcd_port}'}}
watchdog: {{mode: 'off'}}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 3
    synchronous_mode: true
    postgresql: {{use_pg_rewind: false, use_slots: true}}
  initdb: [encoding: UTF8, auth: trust, no-sync]
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {at}/{name}
  bin_dir: {BINARIES}
  pgpass: {at}/{name}.pgpass
  pg_hba: [local all all trust, host all all 127.0.0.1/32 trust, host replication all 127.0.0.1/32 trust]
  authentication:
    superuser: {{username: postgres}}
    replication: {{username: replicator}}
  parameters: {{unix_socket_directories: '{at}', fsync: 'off', max_locks_per_transaction: 512, dynamic_shared_memory_type: mmap}}
"
    );
    let file = format!("{name}.yml");
    std::fs::write(folder.join(&file), settings).expect("written");
    let patroni = Process::start(PATRONI, &[&file], folder, &format!("{name}.log"));
    Member { name, port, api, patroni }
}

/// HAProxy connects to the member that Patroni calls the primary, and cuts the connections to a former one.
fn proxy_settings(port: u16, members: &[Member]) -> String {
    let mut text = format!(
        "global
    maxconn 500
defaults
    mode tcp
    timeout connect 2s
    timeout client 30m
    timeout server 30m
    timeout check 1s
listen primary
    bind 127.0.0.1:{port}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
"
    );
    for Member { name, port, api, .. } in members {
        text.push_str(&format!("    server {name} 127.0.0.1:{port} check port {api}\n"));
    }
    text
}
