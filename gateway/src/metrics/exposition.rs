//! Writes the figures of one moment as text. Only this file calls the Prometheus library. It keeps nothing between
//! scrapes.

use std::fmt;

use eye_event::figures::Distribution;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::names::{Kind, Metric};

/// A figure.
#[derive(Debug)]
pub(super) enum Value {
    Counter(u64),
    /// A counter in seconds.
    CounterSeconds(f64),
    Gauge(f64),
    Histogram(Distribution),
}

/// All figures of one moment.
#[derive(Debug, Default)]
pub(super) struct Scrape(Vec<Family>);

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    /// The labels with their values, and the figure.
    samples: Vec<(Vec<(&'static str, String)>, Value)>,
}

impl Scrape {
    /// Adds a metric with its figures. Each has a value for each label, in the order of the metric's labels.
    pub(super) fn add<'a, const LABELS: usize>(
        &mut self,
        metric: &'static Metric,
        samples: impl IntoIterator<Item = ([&'a str; LABELS], Value)>,
    ) {
        debug_assert_eq!(metric.labels.len(), LABELS, "{}", metric.name);
        let named = |values: [&str; LABELS]| metric.labels.iter().copied().zip(values.map(str::to_owned)).collect();
        let samples = samples.into_iter().map(|(values, value)| (named(values), value)).collect();
        self.0.push(Family { metric, samples });
    }

    /// Writes OpenMetrics text.
    pub(super) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut written = String::new();
        text::encode(&mut written, &registry).expect("writing to a text cannot fail");
        written
    }

    /// Writes Prometheus text 0.0.4, which has the full name of a counter in its head, and no end mark.
    pub(super) fn plain_text(self) -> String {
        let counters: Vec<&str> = self
            .0
            .iter()
            .filter(|family| family.metric.kind == Kind::Counter)
            .map(|family| family.metric.name)
            .collect();
        let mut plain = String::new();
        for line in self.text().lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
            let head = ["# HELP ", "# TYPE "].into_iter().find_map(|head| Some((head, line.strip_prefix(head)?)));
            let named = head.and_then(|(head, rest)| Some((head, rest.split_once(' ')?)));
            match named {
                Some((head, (name, rest)))
                    if counters.iter().any(|counter| counter.strip_suffix("_total") == Some(name)) =>
                {
                    plain.extend([head, name, "_total ", rest]);
                }
                _ => plain.push_str(line),
            }
            plain.push('\n');
        }
        plain
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Family { metric, samples } in &self.0 {
            let (name, kind) = match metric.kind {
                // The library appends `_total` itself.
                Kind::Counter => (metric.name.trim_end_matches("_total"), MetricType::Counter),
                Kind::Gauge => (metric.name, MetricType::Gauge),
                Kind::Histogram => (metric.name, MetricType::Histogram),
            };
            let mut encoder = encoder.encode_descriptor(name, metric.help, None, kind)?;
            for (labels, value) in samples {
                if labels.is_empty() {
                    encode(&mut encoder, value)?;
                } else {
                    encode(&mut encoder.encode_family(labels)?, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, value: &Value) -> Result<(), fmt::Error> {
    match value {
        Value::Counter(count) => encoder.encode_counter(count, None::<&Exemplar<[(&str, &str); 0], u64>>),
        Value::CounterSeconds(seconds) => encoder.encode_counter(seconds, None::<&Exemplar<[(&str, &str); 0], f64>>),
        Value::Gauge(value) => encoder.encode_gauge(value),
        Value::Histogram(found) => {
            encoder.encode_histogram::<NoLabelSet>(found.sum, found.count(), &found.buckets, None)
        }
    }
}
