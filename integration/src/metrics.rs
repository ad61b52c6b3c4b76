//! One scrape of `GET /metrics` in the Prometheus text format.

use std::collections::BTreeMap;

/// The samples of one moment.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    /// Panics on a line that is neither comment nor sample.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self {
            samples: samples.map(Sample::parse).collect(),
        }
    }

    /// The samples of `name` that carry at least `labels`.
    pub fn matching(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let has = |sample: &Sample| {
            labels
                .iter()
                .all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        };
        self.samples
            .iter()
            .filter(|sample| sample.name == name && has(sample))
            .collect()
    }

    /// Their sum; zero when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).iter().map(|sample| sample.value).sum()
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        Self {
            name: name.to_owned(),
            labels: parse_labels(labels.trim_end_matches('}')),
            value,
        }
    }
}

/// `name="value",...`; a quote inside a value is escaped with a backslash.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((name, quoted)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut bytes = quoted.char_indices();
        let end = loop {
            match bytes.next() {
                Some((_, '\\')) => value.extend(bytes.next().map(|(_, escaped)| escaped)),
                Some((at, '"')) => break at + 1,
                Some((_, other)) => value.push(other),
                None => panic!("a label without end: {text}"),
            }
        };
        labels.insert(name.trim_start_matches([',', ' ']).to_owned(), value);
        rest = &quoted[end..];
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_quotes_commas_and_braces() {
        let metrics = Metrics::parse("# HELP a b\na_total{x=\"1,}\\\"\",y=\"2\"} 3\nb 4.5\n");
        assert_eq!(metrics.sum("a_total", &[("x", "1,}\""), ("y", "2")]), 3.0);
        assert_eq!(metrics.sum("b", &[]), 4.5);
        assert_eq!(metrics.sum("a_total", &[("y", "1")]), 0.0);
    }
}
