//! Metrics in the text format of Prometheus.

#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(String);

impl Metrics {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// Sum over all series of `metric` that have these labels; 0 where there is none.
    pub(crate) fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |line: &&str| labels.iter().all(|(name, value)| line.contains(&format!("{name}=\"{value}\"")));
        self.series(metric).filter(has).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Whether there is any series of `metric`.
    pub(crate) fn has(&self, metric: &str) -> bool {
        self.series(metric).next().is_some()
    }

    /// The lines of `metric`, for a message.
    pub(crate) fn lines(&self, metric: &str) -> String {
        self.series(metric).collect::<Vec<_>>().join("\n")
    }

    fn series<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.lines().filter(move |line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(['{', ' '])))
    }
}
