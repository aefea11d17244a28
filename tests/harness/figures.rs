//! Prometheus text, as far as a test reads it.

/// A page of metrics.
#[derive(Debug)]
pub struct Figures(String);

impl Figures {
    /// From the text of `/metrics`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum of all series of a metric that carry these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        self.0
            .lines()
            .filter(of_name)
            .filter(|line| wanted.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// The page as it came.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_their_labels() {
        let page = "# HELP a b\na 1\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\na_total{x=\"2\"} 5\n";
        let figures = Figures::new(page.to_owned());
        assert_eq!(figures.sum("a", &[]), 1.0);
        assert_eq!(figures.sum("a_total", &[]), 12.0);
        assert_eq!(figures.sum("a_total", &[("x", "1")]), 7.0);
        assert_eq!(figures.sum("a_total", &[("x", "1"), ("y", "3")]), 4.0);
        assert_eq!(figures.sum("b", &[]), 0.0);
    }
}
