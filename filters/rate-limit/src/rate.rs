//! `rate` and `burst`: how fast a bucket is refilled, and how large it is.

/// The longest window of a rate. It keeps every time of a bucket far inside of 64 bits of nanoseconds.
const MAX_WINDOW_NS: u64 = 31 * 86_400 * 1_000_000_000;
/// The fastest rate is one token a microsecond: a token's time is rounded to nanoseconds, so that no rate is more than
/// a thousandth slower than it is written.
const MIN_INTERVAL_NS: u64 = 1_000;
/// The longest time that a bucket takes to fill: a year. A burst beyond that is a slip of the pen.
const MAX_CAPACITY_NS: u64 = 366 * 86_400 * 1_000_000_000;

/// The units of a window, in nanoseconds; `ms` stands before `m` and `s`, of which it is made.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
    ("d", 86_400 * 1_000_000_000),
];

/// A bucket's measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval_ns: u64,
    burst: u64,
}

impl Rate {
    /// Reads `AMOUNT/WINDOW`, such as `100/1m`. Without a burst the bucket holds the amount.
    pub fn parse(rate: &str, burst: Option<u64>) -> Result<Self, String> {
        let Some((amount, window_ns)) = amount_and_window(rate) else {
            return Err(format!(
                "rate `{rate}` is not AMOUNT/WINDOW, such as 100/1m; units are ms, s, m, h, d"
            ));
        };
        if amount == 0 {
            return Err(format!("rate `{rate}`: an amount of 0 would refuse everything"));
        }
        if window_ns == 0 || window_ns > MAX_WINDOW_NS {
            return Err(format!("rate `{rate}`: the window is not between 1ms and 31d"));
        }
        if window_ns / amount < MIN_INTERVAL_NS {
            return Err(format!("rate `{rate}`: over 1000000/1s, the fastest that can be kept"));
        }
        let interval_ns = window_ns.div_ceil(amount);
        let burst = burst.unwrap_or(amount);
        if burst == 0 {
            return Err("burst: a bucket of 0 would refuse everything".to_owned());
        }
        match interval_ns.checked_mul(burst) {
            Some(capacity_ns) if capacity_ns <= MAX_CAPACITY_NS => Ok(Rate { interval_ns, burst }),
            _ => Err(format!("burst {burst}: at {rate} it takes over a year to come back")),
        }
    }

    /// The time in which one token comes back.
    pub fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// The tokens of a full bucket.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// The time in which an empty bucket fills.
    pub fn capacity_ns(&self) -> u64 {
        self.interval_ns * self.burst
    }
}

fn amount_and_window(rate: &str) -> Option<(u64, u64)> {
    let (amount, window) = rate.split_once('/')?;
    let unit_at = window.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = window.split_at(unit_at);
    let (_, unit_ns) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let window_ns = digits(number)?.checked_mul(*unit_ns)?;
    Some((digits(amount)?, window_ns))
}

/// Nothing but digits: `u64::from_str` would take a plus sign.
fn digits(text: &str) -> Option<u64> {
    let all = text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_an_amount_and_a_window() {
        let cases = [
            ("100/1m", None, 600_000_000, 100),
            ("100/1m", Some(5), 600_000_000, 5),
            ("1/500ms", None, 500_000_000, 1),
            ("3/1s", None, 333_333_334, 3),
            ("1000000/1s", Some(1), 1_000, 1),
            ("1/31d", None, MAX_WINDOW_NS, 1),
            ("24/24h", None, 3_600_000_000_000, 24),
        ];
        for (rate, burst, interval_ns, capacity) in cases {
            let parsed = Rate::parse(rate, burst).unwrap();
            assert_eq!(
                (parsed.interval_ns(), parsed.burst()),
                (interval_ns, capacity),
                "{rate}"
            );
            assert_eq!(parsed.capacity_ns(), interval_ns * capacity);
        }
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        let not_a_rate = "is not AMOUNT/WINDOW";
        let cases = [
            ("", None, not_a_rate),
            ("100", None, not_a_rate),
            ("100/m", None, not_a_rate),
            ("100/1", None, not_a_rate),
            ("100/1w", None, not_a_rate),
            ("+1/1s", None, not_a_rate),
            ("1/+1s", None, not_a_rate),
            ("1/1s ", None, not_a_rate),
            ("-1/1s", None, not_a_rate),
            ("99999999999999999999/1s", None, not_a_rate),
            ("1/99999999999999d", None, not_a_rate),
            ("0/1s", None, "an amount of 0"),
            ("1/0s", None, "the window is not between"),
            ("1/32d", None, "the window is not between"),
            ("1000001/1s", None, "over 1000000/1s"),
            ("1/1s", Some(0), "a bucket of 0"),
            ("1/31d", Some(12), "over a year"),
            ("1/31d", Some(u64::MAX), "over a year"),
        ];
        for (rate, burst, reason) in cases {
            let refusal = Rate::parse(rate, burst).unwrap_err();
            assert!(refusal.contains(reason), "{rate}: {refusal:?} does not say {reason:?}");
        }
    }
}
