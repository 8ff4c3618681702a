//! The arguments of `eye app change` that remove items from an application's lists and keep the others.

use anyhow::{Context as _, bail};
use clap::Args;
use ipnet::IpNet;
use serde_json::Value;

use super::ScopeName;
use crate::applications::Change;
use crate::trust;

#[derive(Debug, Default, Args)]
pub(super) struct Removals {
    /// Remove this network
    #[arg(long, value_name = "CIDR", conflicts_with = "network")]
    remove_network: Vec<IpNet>,
    /// Remove this client certificate
    #[arg(long, value_name = "HEX", conflicts_with = "certificate_sha256")]
    remove_certificate_sha256: Vec<String>,
    /// Remove this scope
    #[arg(long, value_enum, conflicts_with = "scope")]
    remove_scope: Vec<ScopeName>,
    /// Remove this event type
    #[arg(long, value_name = "PATTERN", conflicts_with_all = ["event_type", "any_event_type"])]
    remove_event_type: Vec<String>,
    /// Remove this event type of those that it may read
    #[arg(long, value_name = "PATTERN", conflicts_with_all = ["read_event_type", "any_read_event_type"])]
    remove_read_event_type: Vec<String>,
    /// Remove this application of those whose events it may read
    #[arg(long, value_name = "NAME", conflicts_with_all = ["read_application", "any_read_application"])]
    remove_read_application: Vec<String>,
}

impl Removals {
    pub(super) fn are_none(&self) -> bool {
        let Self {
            remove_network,
            remove_certificate_sha256,
            remove_scope,
            remove_event_type,
            remove_read_event_type,
            remove_read_application,
        } = self;
        let words = [remove_certificate_sha256, remove_event_type, remove_read_event_type, remove_read_application];
        remove_network.is_empty() && remove_scope.is_empty() && words.into_iter().all(Vec::is_empty)
    }

    /// Sets the lists of a change to what remains of them. `shown` is the application in the form of an answer.
    pub(super) fn take_from(&self, shown: &Value, change: &mut Change) -> anyhow::Result<()> {
        let name = shown["name"].as_str().unwrap_or_default();
        let list = |key: &str| -> Vec<String> {
            let words = shown[key].as_array().map(Vec::as_slice).unwrap_or_default();
            words.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        if !self.remove_network.is_empty() {
            let canonical = |network: &IpNet| trust::canonical(network.trunc());
            let networks: Vec<IpNet> = list("networks")
                .iter()
                .filter_map(|network| network.parse().ok())
                .map(|one: IpNet| canonical(&one))
                .collect();
            let gone: Vec<IpNet> = self.remove_network.iter().map(canonical).collect();
            let left = without(name, "network", &networks, &gone)?;
            change.networks = Some(left.iter().map(ToString::to_string).collect());
        }
        if !self.remove_certificate_sha256.is_empty() {
            let plain = |text: &String| text.replace(':', "").to_lowercase();
            let gone: Vec<String> = self.remove_certificate_sha256.iter().map(plain).collect();
            change.certificates = Some(without(name, "certificate", &list("certificates"), &gone)?);
        }
        if !self.remove_scope.is_empty() {
            let gone = ScopeName::words(&self.remove_scope);
            change.scopes = Some(without(name, "scope", &list("scopes"), &gone)?);
        }
        if !self.remove_event_type.is_empty() {
            let left = without(name, "event type", &list("event_types"), &self.remove_event_type)?;
            if left.is_empty() {
                // An empty list would allow all event types.
                bail!(
                    "without an event type {name} could send every one: use --any-event-type if that is meant, or suspend it \
                     with --active false"
                );
            }
            change.event_types = Some(left);
        }
        if !self.remove_read_event_type.is_empty() {
            let left = without(name, "event type to read", &list("read_event_types"), &self.remove_read_event_type)?;
            change.read_event_types = Some(still_limited(name, left, "--any-read-event-type")?);
        }
        if !self.remove_read_application.is_empty() {
            let left = without(name, "application to read", &list("read_applications"), &self.remove_read_application)?;
            change.read_applications = Some(still_limited(name, left, "--any-read-application")?);
        }
        Ok(())
    }
}

/// Refuses to take the last item of a limit for reading away, since an empty list would show everything.
fn still_limited(name: &str, left: Vec<String>, flag: &str) -> anyhow::Result<Vec<String>> {
    if left.is_empty() {
        bail!(
            "without the last of these {name} would no more be limited: use {flag} if that is meant, or remove its scope"
        );
    }
    Ok(left)
}

/// Removes `gone` from a list. An item that the list does not have is an error, since it is probably a typing mistake.
fn without<T: Clone + PartialEq + ToString>(name: &str, what: &str, list: &[T], gone: &[T]) -> anyhow::Result<Vec<T>> {
    let missing = gone.iter().find(|gone| !list.contains(gone));
    missing.map_or(Ok(()), |missing| {
        let has: Vec<String> = list.iter().map(ToString::to_string).collect();
        let has = if has.is_empty() { "it has none".to_owned() } else { format!("it has {}", has.join(", ")) };
        Err(anyhow::anyhow!("{has}")).with_context(|| format!("{name} has no {what} {}", missing.to_string()))
    })?;
    Ok(list.iter().filter(|item| !gone.contains(item)).cloned().collect())
}
