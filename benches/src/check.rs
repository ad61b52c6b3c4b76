//! A bound on one proxy's ratio, as given by `--check NAME<=RATIO`. Pure.

use std::str::FromStr;

use serde::Serialize;

use crate::report::Report;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    pub name: String,
    /// The largest ratio to the first named proxy that still passes.
    pub at_most: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Met(f64),
    Missed(f64),
    /// The ratio does not exist, because the load failed on this proxy or on the one it is compared to.
    NoFigure,
}

impl Check {
    pub fn judge(&self, report: &Report) -> Verdict {
        match report
            .rows
            .iter()
            .find(|row| row.name == self.name)
            .and_then(|row| row.ratio)
        {
            Some(ratio) if ratio <= self.at_most => Verdict::Met(ratio),
            Some(ratio) => Verdict::Missed(ratio),
            None => Verdict::NoFigure,
        }
    }
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = || format!("`{text}` is not NAME<=RATIO, for example tamis<=1.15");
        let (name, ratio) = text.split_once("<=").ok_or_else(wanted)?;
        let name = name.trim();
        let at_most: f64 = ratio.trim().parse().map_err(|_| wanted())?;
        if name.is_empty() || !at_most.is_finite() || at_most <= 0.0 {
            return Err(wanted());
        }
        Ok(Self {
            name: name.to_owned(),
            at_most,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report_of;

    #[test]
    fn reads_name_and_bound() {
        for text in ["tamis-wasm3<=1.30", " tamis-wasm3 <= 1.3 "] {
            assert_eq!(
                text.parse(),
                Ok(Check {
                    name: "tamis-wasm3".to_owned(),
                    at_most: 1.3
                })
            );
        }
    }

    #[test]
    fn refuses_what_is_no_bound() {
        for text in [
            "",
            "tamis",
            "tamis<1.2",
            "tamis=1.2",
            "<=1.2",
            "tamis<=",
            "tamis<=x",
            "tamis<=NaN",
            "tamis<=inf",
            "tamis<=-1",
            "tamis<=0",
        ] {
            assert!(text.parse::<Check>().is_err(), "{text}");
        }
    }

    #[test]
    fn judges_the_ratio_with_the_bound_itself_allowed() {
        let report = report_of(&[("haproxy", 10.0, 0), ("tamis", 12.5, 0), ("broken", 5.0, 7)]);
        let judged = |text: &str| text.parse::<Check>().unwrap().judge(&report);
        assert_eq!(judged("tamis<=1.25"), Verdict::Met(1.25));
        assert_eq!(judged("tamis<=1.24"), Verdict::Missed(1.25));
        assert_eq!(judged("broken<=9"), Verdict::NoFigure);
        assert_eq!(judged("absent<=9"), Verdict::NoFigure);
    }
}
